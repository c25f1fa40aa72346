// A descriptor that an event loop of another language can watch (Linux eventfd, non-blocking, close-on-exec).
#pragma once

namespace pydllm {

class EventFd {
 public:
  EventFd();  // ResourceExhausted when the process has no descriptor left
  ~EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  int fd() const noexcept { return fd_; }
  void signal() noexcept;  // readable from now on; idempotent until cleared
  void clear() noexcept;   // not readable any more

 private:
  int fd_;
};

}  // namespace pydllm
