// SPDX-License-Identifier: Apache-2.0
// What the stages of the harness share: random numbers that depend on the input's number alone,
// arrays that end where their memory does, and the count of what happened.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace hostile {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {  // splitmix64 (Steele, Lea and Flood)
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t between(int64_t lowest, int64_t highest) {
    const auto choices = static_cast<uint64_t>(highest) - static_cast<uint64_t>(lowest) + 1;
    return static_cast<int64_t>(static_cast<uint64_t>(lowest) + bits() % choices);
  }
  bool one_in(int64_t n) { return between(1, n) == 1; }
  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
  }

  // Anything, and what is at the ends of the type more often than chance.
  template <typename T>
  T value() {
    using Limits = std::numeric_limits<T>;
    if constexpr (std::is_floating_point_v<T>) {
      if (one_in(8)) {
        return pick({T(0), -T(0), T(1), Limits::infinity(), -Limits::infinity(),
                     Limits::quiet_NaN(), Limits::max(), Limits::lowest(), Limits::min(),
                     Limits::denorm_min()});
      }
      return static_cast<T>(between(-1000, 1000)) / T(250);
    } else {
      if (one_in(4)) {
        return pick<T>({T(0), T(1), T(-1), Limits::min(), Limits::max(), T(Limits::max() - 1)});
      }
      return static_cast<T>(bits());
    }
  }

 private:
  uint64_t state_;
};

// Elements that begin at no address that a vector of 32 bytes would choose, and end at the end of
// their allocation.
template <typename T>
class Array {
 public:
  Array(Random& random, int64_t size) : lead_(random.between(0, 3)), all_(lead_ + size) {}

  T* data() { return all_.data() + lead_; }
  int64_t size() const { return static_cast<int64_t>(all_.size()) - lead_; }
  T& operator[](int64_t i) { return all_.at(lead_ + i); }

  // Fills it, with values of at most this magnitude if one is given.
  Array& fill(Random& random, int64_t magnitude = 0) {
    for (int64_t i = 0; i < size(); ++i) {
      (*this)[i] =
          magnitude > 0 ? static_cast<T>(random.between(-magnitude, magnitude)) : random.value<T>();
    }
    return *this;
  }

 private:
  int64_t lead_;
  std::vector<T> all_;
};

// Any floating-point numbers, of 16 bits too.
template <typename T>
void floats(Random& random, Array<T>& array) {
  if constexpr (std::is_floating_point_v<T>) {
    array.fill(random);
  } else {
    for (int64_t i = 0; i < array.size(); ++i) {
      array[i].bits = random.value<uint16_t>();
    }
  }
}

// run(begin, end) over [0, size), in two parts.
template <typename Run>
void in_parts(Random& random, int64_t size, const Run& run) {
  const int64_t cut = random.between(0, size);
  run(int64_t{0}, cut);
  run(cut, size);
}

// A few, and now and then as many as take every path of the vector code.
inline int64_t some(Random& random, int64_t few, int64_t many) {
  return random.between(1, random.one_in(12) ? many : few);
}

// What happened: kind of input, outcome, how often.
class Tally {
 public:
  void count(const char* kind, const char* outcome) { ++counts_[{kind, outcome}]; }
  void print() const {
    for (const auto& [name, count] : counts_) {
      std::printf("count %s: %s %lld\n", name.first.c_str(), name.second.c_str(),
                  static_cast<long long>(count));
    }
  }

 private:
  std::map<std::pair<std::string, std::string>, int64_t> counts_;
};

// FNV-1a of everything that has to be the same with every instruction set.
class Digest {
 public:
  template <typename T>
  void add(const T* values, int64_t count) {
    for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); ++i) {
      value_ = (value_ ^ reinterpret_cast<const uint8_t*>(values)[i]) * 0x100000001b3u;
    }
  }
  void print() const { std::printf("digest %016llx\n", static_cast<unsigned long long>(value_)); }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

[[noreturn]] void fail(const char* what);

inline void require(bool holds, const char* what) {
  if (!holds) {
    fail(what);
  }
}

// An op with inputs of its own kind.
struct OpInput {
  const char* name;
  void (*run)(Random&, Digest&);
};

const std::vector<OpInput>& decoding_ops();

// The stages: one input, or for races and threads some.
void code_input(Random& random, Tally& tally, Digest& digest);
void op_input(Random& random, Tally& tally, Digest& digest);
void race_input(Random& random, Tally& tally, Digest& digest);
void shared_input(Random& random, Tally& tally, Digest& digest);

// Of ops on pictures, of any type of element.
void low_pass_input(Random& random);
void frequency_update_input(Random& random);

// Rows of `alphabet` symbols that run strictly upwards from 0 to 2^precision.
std::vector<int32_t> valid_rows(Random& random, int64_t rows, int64_t alphabet, int precision);

}  // namespace hostile
