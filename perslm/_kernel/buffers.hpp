// Arrays of a caller, through Python's buffer protocol: less than half of what nanobind's ndarray
// takes, which matters where a whole call lasts microseconds.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace perslm {

// A C-contiguous array of native numbers, held as long as this object lives; not without the GIL at
// either end of its life.
class Buffer {
 public:
  // Throws TypeError, with `name`, if the object is no such array, has other dimensions, or is to
  // be written to and cannot.
  Buffer(nanobind::handle object, const char* name, int dimensions, bool writable) : name_(name) {
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) {
      PyErr_Clear();
      refuse(writable ? " is no C-contiguous array that can be written to"
                      : " is no C-contiguous array");
    }
    if (view_.ndim != dimensions) {
      PyBuffer_Release(&view_);
      refuse(" has another number of dimensions");
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { PyBuffer_Release(&view_); }

  const char* name() const { return name_; }
  void* data() const { return view_.buf; }
  std::size_t bytes() const { return static_cast<std::size_t>(view_.len); }
  std::size_t shape(int axis) const { return static_cast<std::size_t>(view_.shape[axis]); }
  std::size_t size() const { return bytes() / static_cast<std::size_t>(view_.itemsize); }

  // Whether the elements are of type T: 32 or 64 bits, of either sign, a byte, or float.
  template <class T>
  bool holds() const {
    const char* letters = std::is_floating_point_v<T> ? "fd" : std::is_signed_v<T> ? "ilq" : "BILQ";
    return view_.itemsize == sizeof(T) && view_.format[0] != '\0' && view_.format[1] == '\0' &&
           std::strchr(letters, view_.format[0]) != nullptr;
  }

  [[noreturn]] void refuse(const char* why) const {
    throw nanobind::type_error((std::string(name_) + why).c_str());
  }

 private:
  const char* name_;
  Py_buffer view_;
};

// One whose elements are of type T; it can be written to unless T is const.
template <class T>
class Array : public Buffer {
 public:
  Array(nanobind::handle object, const char* name, int dimensions = 1)
      : Buffer(object, name, dimensions, !std::is_const_v<T>) {
    if (!holds<std::remove_const_t<T>>()) refuse(" has another dtype");
  }
  T* data() const { return static_cast<T*>(Buffer::data()); }
};

// A copy of an array, for values that are checked and then trusted: another thread may write to the
// array itself meanwhile.
template <class T>
class Copy {
 public:
  Copy(nanobind::handle object, const char* name) {
    const Array<const T> array(object, name);
    values_.assign(array.data(), array.data() + array.size());
  }
  const T* data() const { return values_.data(); }
  std::size_t size() const { return values_.size(); }

 private:
  std::vector<T> values_;
};

}  // namespace perslm
