// The algorithms themselves, one per file of this folder. Private to decode: others go through find_algorithm().
#pragma once

#include "decode/algorithm.h"

namespace pydllm::decode {

extern const Algorithm kLladaSchedule;
extern const Algorithm kConfidenceThreshold;
extern const Algorithm kConfidenceFactor;
extern const Algorithm kEntropyThreshold;
extern const Algorithm kMultiBlockEntropy;
extern const Algorithm kNearMax;
extern const Algorithm kCredit;
extern const Algorithm kHierarchical;
extern const Algorithm kDream;
extern const Algorithm kRnd1Entropy;
extern const Algorithm kD2f;
extern const Algorithm kLowConfidenceDecoding;
extern const Algorithm kJointThreshold;
extern const Algorithm kLevenshtein;
extern const Algorithm kSdar;
extern const Algorithm kMultiBlock;
extern const Algorithm kFastDllmV2;

}  // namespace pydllm::decode
