// A loaded model on its way from load_model to the Engine that takes it.
#pragma once

#include <memory>

#include "models/model.h"

namespace pydllm::bind {

class ModelHolder {
 public:
  explicit ModelHolder(std::unique_ptr<Model> model) : model_(std::move(model)) {}
  // Both throw InvalidRequest("model") once an Engine has taken the model.
  const Model& model() const;
  std::unique_ptr<Model> take();

 private:
  std::unique_ptr<Model> model_;
};

}  // namespace pydllm::bind
