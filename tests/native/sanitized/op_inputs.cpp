// SPDX-License-Identifier: Apache-2.0
// The CPU code of every op: odd shapes, extreme values, rows in two parts as threads get them. What
// a bitstream depends on is computed again, one number after the other.
#include <algorithm>
#include <cmath>

#include "common/integer.h"
#include "entropy/pmf_to_cdf.h"
#include "forecast/predict_add.h"
#include "inputs.h"
#include "integer/integer_attention.h"
#include "integer/integer_frequencies.h"
#include "integer/integer_gate.h"
#include "integer/integer_linear.h"
#include "integer/integer_rms_norm.h"
#include "integer/integer_rotate_normalize.h"
#include "quantize/nearest_code.h"
#include "quantize/soft_cross_entropy.h"
#include "quantize/soft_cross_entropy_backward.h"
#include "tokens/select_tokens.h"
#include "tokens/token_scores.h"

namespace hostile {
namespace {

using namespace genaccel;
using integer::fixed_point::InverseNorm;

template <typename T>
void linear(Random& random, Digest& digest) {
  const int64_t rows = some(random, 6, 10), inputs = some(random, 40, 300);
  const int64_t outputs = some(random, 20, 40);
  Array<int8_t> x(random, rows * inputs), weight(random, outputs * inputs);
  Array<int32_t> bias(random, outputs), multiplier(random, outputs);
  Array<T> out(random, rows * outputs);
  x.fill(random), weight.fill(random), bias.fill(random), multiplier.fill(random);
  if (random.one_in(20)) {  // the largest sum there is
    std::fill_n(x.data(), x.size(), int8_t{-128});
    std::fill_n(weight.data(), weight.size(), int8_t{-128});
  }
  integer::Linear<T> p{};
  p.x = x.data();
  p.weight = weight.data();
  p.bias = random.one_in(4) ? nullptr : bias.data();
  p.multiplier = multiplier.data();
  p.out = out.data();
  p.inputs = inputs;
  p.outputs = outputs;
  p.shift = static_cast<int>(random.between(integer::kMinShift, integer::kMaxShift));
  in_parts(random, rows, [&](int64_t b, int64_t e) { integer::integer_linear_cpu(p, b, e); });
  for (int64_t i = 0; i < out.size(); ++i) {
    const int64_t row = i / outputs, o = i % outputs;
    int32_t sum = 0;
    for (int64_t c = 0; c < inputs; ++c) {
      sum += x[row * inputs + c] * weight[o * inputs + c];
    }
    sum = integer::with_bias(sum, p.bias == nullptr ? 0 : bias[o]);
    require(out[i] == integer::requantized<T>(sum, multiplier[o], p.shift), "integer_linear");
  }
  digest.add(out.data(), out.size());
}

void any_linear(Random& random, Digest& digest) {
  switch (random.between(0, 2)) {
    case 0:
      return linear<int8_t>(random, digest);
    case 1:
      return linear<int16_t>(random, digest);
    default:
      return linear<int32_t>(random, digest);
  }
}

void rms_norm(Random& random, Digest& digest) {
  const int64_t rows = some(random, 5, 9), channels = some(random, 30, 400);
  Array<int32_t> x(random, rows * channels);
  Array<int8_t> out(random, rows * channels);
  x.fill(random, random.pick<int64_t>({0, 0, 1, 5000, 1 << 20}));
  const auto gain = static_cast<uint32_t>(random.between(1, integer::fixed_point::kMaxGain));
  const auto epsilon = static_cast<uint64_t>(
      random.pick<int64_t>({0, 1, 1000, (int64_t{1} << 62) - 1, random.between(0, 1 << 30)}));
  const integer::RmsNorm p = {x.data(), out.data(), channels, gain, epsilon};
  in_parts(random, rows, [&](int64_t b, int64_t e) { integer::integer_rms_norm_cpu(p, b, e); });
  for (int64_t row = 0; row < rows; ++row) {
    uint32_t bits = 0;
    for (int64_t c = 0; c < channels; ++c) {
      bits |= integer::magnitude(x[row * channels + c]);
    }
    const int shift = integer::row_shift(bits);
    uint64_t sum = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t value = integer::shifted(x[row * channels + c], shift);
      sum += static_cast<uint64_t>(value * value);
    }
    const InverseNorm inverse = integer::inverse_rms(sum, epsilon, shift, gain);
    for (int64_t c = 0; c < channels; ++c) {
      const int32_t value = integer::shifted(x[row * channels + c], shift);
      require(out[row * channels + c] ==
                  integer::fixed_point::to_int8(integer::fixed_point::normalized(value, inverse)),
              "integer_rms_norm");
    }
  }
  digest.add(out.data(), out.size());
}

void rotate_normalize(Random& random, Digest& digest) {
  const int64_t batch = random.between(1, 2), tokens = random.between(1, 4);
  const int64_t heads = random.between(1, 3);
  const int64_t channels = random.one_in(2) ? 16 * random.between(1, 4) : 2 * random.between(1, 20);
  const int64_t size = batch * tokens * heads * channels;
  Array<int16_t> x(random, size), rotations(random, tokens * channels);
  Array<int8_t> out(random, size);
  x.fill(random), rotations.fill(random);
  if (random.one_in(10)) {  // sums of 2^31
    std::fill_n(x.data(), size, INT16_MIN);
    std::fill_n(rotations.data(), rotations.size(), INT16_MIN);
  }
  const integer::RotateNormalize p = {x.data(), rotations.data(), out.data(), tokens,
                                      heads,    channels};
  in_parts(random, batch * tokens,
           [&](int64_t b, int64_t e) { integer::integer_rotate_normalize_cpu(p, b, e); });
  for (int64_t head = 0; head < batch * tokens * heads; ++head) {
    const int64_t token = head / heads % tokens;
    std::vector<int32_t> turned;
    uint64_t sum = 0;
    for (int64_t i = 0; i < channels; i += 2) {
      const integer::Pair pair =
          integer::turned(x[head * channels + i], x[head * channels + i + 1],
                          rotations[token * channels + i], rotations[token * channels + i + 1]);
      for (const int64_t value : {pair.even, pair.odd}) {
        turned.push_back(static_cast<int32_t>(value));
        sum += static_cast<uint64_t>(value * value);
      }
    }
    const InverseNorm inverse = integer::fixed_point::inverse_norm(sum, integer::kUnitGain);
    for (int64_t c = 0; c < channels; ++c) {
      require(out[head * channels + c] == integer::fixed_point::to_int8(
                                              integer::fixed_point::normalized(turned[c], inverse)),
              "integer_rotate_normalize");
    }
  }
  digest.add(out.data(), size);
}

void gate(Random& random, Digest& digest) {
  const int64_t rows = some(random, 5, 9), channels = some(random, 20, 100);
  Array<int8_t> x(random, rows * 2 * channels), out(random, rows * channels);
  Array<int16_t> table(random, integer::kTableSize);
  x.fill(random), table.fill(random);
  const integer::Gate p = {x.data(), table.data(), out.data(), channels,
                           static_cast<int>(random.between(1, integer::kMaxGateShift))};
  in_parts(random, rows, [&](int64_t b, int64_t e) { integer::integer_gate_cpu(p, b, e); });
  for (int64_t i = 0; i < out.size(); ++i) {
    const int64_t at = i / channels * 2 * channels + i % channels;
    require(out[i] == integer::gated(table[x[at] + 128], x[at + channels], p.shift),
            "integer_gate");
  }
  digest.add(out.data(), out.size());
}

void attention(Random& random, Digest& digest) {
  const int64_t batch = random.between(1, 2), tokens = random.between(1, 5);
  const int64_t heads = random.between(1, 2), channels = some(random, 20, 80);
  const int64_t keys = random.one_in(12) ? random.between(0, 70) : random.between(0, 20);
  const int64_t stride = heads * channels;
  Array<int8_t> query(random, batch * tokens * stride), out(random, batch * tokens * stride);
  Array<int8_t> key(random, batch * keys * stride), value(random, batch * keys * stride);
  Array<int32_t> visible(random, tokens), temperature(random, heads);
  query.fill(random), key.fill(random), value.fill(random), temperature.fill(random);
  visible.fill(random);
  for (int64_t i = 0; i < tokens; ++i) {
    visible[i] = random.one_in(3) ? visible[i] : static_cast<int32_t>(random.between(0, keys));
  }
  for (int64_t h = 0; h < heads; ++h) {
    temperature[h] = random.one_in(4) ? random.pick({0, 1, INT32_MAX})
                                      : static_cast<int32_t>(random.between(0, int64_t{1} << 20));
  }
  const integer::Attention p = {query.data(),
                                key.data(),
                                value.data(),
                                visible.data(),
                                temperature.data(),
                                out.data(),
                                tokens,
                                keys,
                                heads,
                                channels,
                                static_cast<uint32_t>(random.between(1, integer::kMaxOutputGain))};
  in_parts(random, batch * heads,
           [&](int64_t b, int64_t e) { integer::integer_attention_cpu(p, b, e); });
  for (int64_t unit = 0; unit < batch * tokens * heads; ++unit) {
    const int64_t head = unit % heads, token = unit / heads % tokens;
    const int64_t offset = unit / heads / tokens * keys * stride + head * channels;
    const int64_t own = std::clamp<int64_t>(visible[token], 0, keys);
    std::vector<int32_t> scores(own);
    int32_t largest = INT32_MIN;
    for (int64_t j = 0; j < own; ++j) {
      for (int64_t c = 0; c < channels; ++c) {
        scores[j] += query[unit * channels + c] * key[offset + j * stride + c];
      }
      largest = std::max(largest, scores[j]);
    }
    const auto steepness = static_cast<uint32_t>(temperature[head]);
    uint32_t sum = 0;
    for (int32_t& score : scores) {
      score = static_cast<int32_t>(integer::attention_weight(
          static_cast<uint32_t>(largest - score), steepness, integer::largest_below(steepness)));
      sum += static_cast<uint32_t>(score);
    }
    for (int64_t c = 0; c < channels; ++c) {
      int32_t weighted = 0;
      for (int64_t j = 0; j < own; ++j) {
        weighted += scores[j] * value[offset + j * stride + c];
      }
      require(
          out[unit * channels + c] == integer::averaged(weighted, integer::reciprocal(sum, p.gain)),
          "integer_attention");
    }
  }
  digest.add(out.data(), out.size());
}

void frequencies(Random& random, Digest& digest) {
  const int64_t rows = random.between(1, 4), group_size = random.between(1, 9);
  const int64_t groups = some(random, 10, 120), symbols = groups * group_size;
  Array<int32_t> logits(random, rows * symbols);
  Array<int64_t> group(random, rows);
  logits.fill(random, random.pick<int64_t>({0, 100000}));
  group.fill(random);
  integer::Frequencies p{};
  p.logits = logits.data();
  p.group = random.one_in(2) ? group.data() : nullptr;
  p.symbols = symbols;
  p.group_size = group_size;
  p.fraction_bits = static_cast<int>(random.between(0, integer::kMaxFractionBits));
  Array<int32_t> out(random, rows * (p.entries() + 1));
  p.out = out.data();
  in_parts(random, rows, [&](int64_t b, int64_t e) { integer::integer_frequencies_cpu(p, b, e); });
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t chosen = p.group == nullptr ? 0 : existing_index(group[row], groups);
    const int32_t* from = logits.data() + row * symbols + chosen * group_size;
    const int64_t count = p.group == nullptr ? symbols : group_size;
    const int32_t largest = *std::max_element(from, from + count);
    std::vector<uint32_t> weights;
    uint64_t sum = 0;
    for (int64_t s = 0; s < count; ++s) {
      weights.push_back(integer::logit_weight(static_cast<uint32_t>(largest),
                                              static_cast<uint32_t>(from[s]), p.fraction_bits));
      sum += weights.back();
    }
    const int64_t span = p.group == nullptr ? group_size : 1;
    uint64_t before = 0;
    for (int64_t e = 0; e <= p.entries(); ++e) {
      const uint64_t free_slots = integer::kTotal - static_cast<uint64_t>(p.entries());
      const uint64_t start = static_cast<uint64_t>(e) + before * free_slots / sum;
      require(out[row * (p.entries() + 1) + e] == static_cast<int64_t>(start),
              "integer_frequencies");
      for (int64_t s = e * span; s < (e + 1) * span && s < count; ++s) {
        before += weights[s];
      }
    }
  }
  digest.add(out.data(), out.size());
}

template <typename T>
void pmf_to_cdf(Random& random, Digest& digest) {
  const int precision = static_cast<int>(random.between(1, entropy::kMaxPrecision));
  const int64_t most = int64_t{1} << std::min(precision, random.one_in(20) ? 10 : 6);
  const int64_t rows = random.between(1, 4);
  const int64_t symbols = random.one_in(6) ? most : random.between(1, most);
  Array<T> pmf(random, rows * symbols);
  Array<int32_t> cdf(random, rows * (symbols + 1));
  pmf.fill(random);
  in_parts(random, rows, [&](int64_t b, int64_t e) {
    entropy::pmf_to_cdf_cpu<T>(pmf.data(), cdf.data(), b, e, symbols, precision);
  });
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* out = cdf.data() + row * (symbols + 1);
    require(out[0] == 0 && out[symbols] == int32_t{1} << precision, "pmf_to_cdf: ends");
    require(std::adjacent_find(out, out + symbols + 1, std::greater_equal<>()) == out + symbols + 1,
            "pmf_to_cdf: falls");
  }
  digest.add(cdf.data(), cdf.size());
}

void select_tokens(Random& random, Digest& digest) {
  const int64_t groups = random.between(1, 3), rows = random.between(0, 3);
  const int64_t tokens = random.between(0, 60), selected = random.between(0, tokens);
  Array<float> score(random, groups * rows * tokens);
  Array<int64_t> index(random, groups * rows * selected);
  score.fill(random);
  in_parts(random, rows, [&](int64_t b, int64_t e) {
    tokens::select_tokens_cpu(score.data(), index.data(), b, e, rows, groups, tokens, selected);
  });
  for (int64_t i = 0; i < index.size(); ++i) {
    require(index[i] >= 0 && index[i] < tokens, "select_tokens: no such token");
    require(i % selected == 0 || index[i] > index[i - 1], "select_tokens: not ascending");
  }
  digest.add(index.data(), index.size());
}

template <typename T>
void token_scores(Random& random) {
  const int64_t rows = random.between(1, 5), channels = some(random, 40, 300);
  Array<T> x(random, rows * channels), reference(random, rows * channels);
  Array<float> score(random, rows);
  floats(random, x), floats(random, reference);
  const T* other = random.one_in(2) ? reference.data() : nullptr;
  in_parts(random, rows, [&](int64_t b, int64_t e) {
    tokens::token_scores_cpu<T>(x.data(), other, score.data(), b, e, channels);
  });
}

template <typename T>
void predict_add(Random& random) {
  const int64_t size = some(random, 40, 300);
  const int terms = static_cast<int>(random.between(0, 5));
  std::vector<Array<T>> arrays;
  std::vector<const T*> history;
  std::vector<Accumulate<T>> coefficients;
  for (int t = 0; t < terms + 1; ++t) {
    floats(random, arrays.emplace_back(random, size));
    history.push_back(arrays.back().data());
    coefficients.push_back(random.value<Accumulate<T>>());
  }
  Array<T> out(random, size);
  const forecast::Prediction<T> p = {out.data(),     random.one_in(2) ? history.back() : nullptr,
                                     size,           random.value<Accumulate<T>>(),
                                     history.data(), coefficients.data(),
                                     terms};
  in_parts(random, size, [&](int64_t b, int64_t e) { forecast::predict_add_cpu<T>(p, b, e); });
}

template <typename T>
void nearest_code(Random& random) {
  const int64_t rows = random.between(0, 9), dim = random.between(1, 12);
  const int64_t codes = some(random, 20, 80);
  Array<T> features(random, rows * dim), book(random, codes * dim), unit(random, codes * dim);
  Array<T> packed(random, quantize::packed_codes_size<T>(codes, dim)), out(random, rows * dim);
  Array<int64_t> index(random, rows);
  floats(random, features), floats(random, book);
  quantize::pack_codes_cpu<T>(book.data(), unit.data(), packed.data(), codes, dim);
  in_parts(random, rows, [&](int64_t b, int64_t e) {
    quantize::nearest_code_cpu<T>(features.data(), unit.data(), packed.data(), out.data(),
                                  index.data(), b, e, codes, dim);
    quantize::nearest_code_backward_cpu<T>(out.data(), features.data(), out.data(), b, e, dim);
  });
  for (int64_t i = 0; i < rows; ++i) {
    require(index[i] >= 0 && index[i] < codes, "nearest_code: no such code word");
  }
}

template <typename T, typename Z>
void soft_cross_entropy(Random& random) {
  const int64_t rows = random.between(0, 7), dim = random.between(1, 20);
  const int64_t codes = random.one_in(12) ? random.between(1, 300) : random.between(1, 40);
  Array<T> features(random, rows * dim), book(random, codes * dim), grad(random, rows);
  Array<Z> logits(random, rows * codes), grad_logits(random, rows * codes);
  Array<T> rate(random, rows), statistics(random, rows * quantize::soft_codes::kStatistics);
  Array<T> packed(random, quantize::packed_soft_codes_size<T>(codes, dim)), residue(random, rows);
  Array<T> grad_features(random, rows * dim), grad_book(random, codes * dim);
  Array<int64_t> index(random, rows);
  floats(random, features), floats(random, book), floats(random, logits), floats(random, grad);
  const double temperature = random.pick({1e-300, 1e-6, 0.1, 1.0, 1e30, 1e300});
  quantize::pack_soft_codes_cpu<T>(book.data(), packed.data(), codes, dim);
  const quantize::SoftCrossEntropy<T, Z> forward = {
      features.data(), book.data(),  logits.data(),    rows, codes, dim, temperature,
      rate.data(),     index.data(), statistics.data()};
  in_parts(random, rows, [&](int64_t b, int64_t e) {
    quantize::soft_cross_entropy_cpu(forward, packed.data(), b, e);
  });
  for (int64_t i = 0; i < rows; ++i) {
    require(index[i] >= 0 && index[i] < codes, "soft_cross_entropy: no such code word");
    index[i] = random.one_in(4) ? random.value<int64_t>() : index[i];
  }
  const quantize::SoftCrossEntropyBackward<T, Z> backward = {
      grad.data(),
      features.data(),
      book.data(),
      logits.data(),
      index.data(),
      statistics.data(),
      rows,
      codes,
      dim,
      temperature,
      random.one_in(3) ? nullptr : grad_features.data(),
      grad_book.data(),
      random.one_in(3) ? nullptr : grad_logits.data()};
  in_parts(random, rows, [&](int64_t b, int64_t e) {
    quantize::soft_cross_entropy_backward_cpu(backward, packed.data(), residue.data(), b, e);
  });
  in_parts(random, quantize::soft_code_tiles<T>(codes), [&](int64_t b, int64_t e) {
    quantize::soft_codebook_backward_cpu(backward, packed.data(), residue.data(), b, e);
  });
}

}  // namespace

void op_input(Random& random, Tally& tally, Digest& digest) {
  // Of floating-point results, which differ between instruction sets, no digest is taken.
  static const OpInput ops[] = {
      {"integer_linear", any_linear},
      {"integer_rms_norm", rms_norm},
      {"integer_rotate_normalize", rotate_normalize},
      {"integer_gate", gate},
      {"integer_attention", attention},
      {"integer_frequencies", frequencies},
      {"pmf_to_cdf", pmf_to_cdf<float>},
      {"pmf_to_cdf", pmf_to_cdf<double>},
      {"select_tokens", select_tokens},
      {"token_scores", [](Random& r, Digest&) { token_scores<float>(r); }},
      {"token_scores", [](Random& r, Digest&) { token_scores<double>(r); }},
      {"token_scores", [](Random& r, Digest&) { token_scores<Half>(r); }},
      {"token_scores", [](Random& r, Digest&) { token_scores<BFloat16>(r); }},
      {"predict_add", [](Random& r, Digest&) { predict_add<float>(r); }},
      {"predict_add", [](Random& r, Digest&) { predict_add<double>(r); }},
      {"predict_add", [](Random& r, Digest&) { predict_add<Half>(r); }},
      {"predict_add", [](Random& r, Digest&) { predict_add<BFloat16>(r); }},
      {"low_pass", [](Random& r, Digest&) { low_pass_input(r); }},
      {"frequency_update", [](Random& r, Digest&) { frequency_update_input(r); }},
      {"nearest_code", [](Random& r, Digest&) { nearest_code<float>(r); }},
      {"nearest_code", [](Random& r, Digest&) { nearest_code<double>(r); }},
      {"soft_cross_entropy", [](Random& r, Digest&) { soft_cross_entropy<float, float>(r); }},
      {"soft_cross_entropy", [](Random& r, Digest&) { soft_cross_entropy<float, Half>(r); }},
      {"soft_cross_entropy", [](Random& r, Digest&) { soft_cross_entropy<float, BFloat16>(r); }},
      {"soft_cross_entropy", [](Random& r, Digest&) { soft_cross_entropy<double, double>(r); }},
  };
  const auto count = static_cast<int64_t>(std::size(ops));
  const auto others = static_cast<int64_t>(decoding_ops().size());
  const int64_t number = random.between(0, count + others - 1);
  const OpInput& op = number < count ? ops[number] : decoding_ops()[number - count];
  op.run(random, digest);
  tally.count(op.name, "as expected");
}

}  // namespace hostile
