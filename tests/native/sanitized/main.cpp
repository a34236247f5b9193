// SPDX-License-Identifier: Apache-2.0
// hostile_inputs STAGE FIRST COUNT: feeds the coder and the CPU code inputs [FIRST, FIRST + COUNT)
// of a stage. Prints how often what happened. The number of the input that a sanitizer reports on
// is printed with the report; with it as FIRST, and COUNT 1, it comes again.
#include <sanitizer/common_interface_defs.h>

#include "inputs.h"

namespace hostile {
namespace {

const char* stage = "";
uint64_t number = 0;

void print_place() {
  std::fprintf(stderr, "hostile_inputs: in input %llu of stage %s\n",
               static_cast<unsigned long long>(number), stage);
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "hostile_inputs: %s\n", what);
  print_place();
  std::exit(2);
}

int run(const char* name, uint64_t first, uint64_t count) {
  const std::map<std::string, void (*)(Random&, Tally&, Digest&)> stages = {
      {"coder", code_input}, {"ops", op_input}, {"races", race_input}, {"threads", shared_input}};
  const auto found = stages.find(name);
  if (found == stages.end()) {
    std::fprintf(stderr, "stages: coder, ops, races, threads\n");
    return 1;
  }
  stage = name;
  __sanitizer_set_death_callback(print_place);
  Tally tally;
  Digest digest;
  for (number = first; number < first + count; ++number) {
    Random random(number * 0x2545f4914f6cdd1du + 1);
    found->second(random, tally, digest);
  }
  tally.print();
  digest.print();
  return 0;
}

}  // namespace hostile

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: hostile_inputs STAGE FIRST COUNT\n");
    return 1;
  }
  return hostile::run(arguments[1], std::strtoull(arguments[2], nullptr, 10),
                      std::strtoull(arguments[3], nullptr, 10));
}
