// SPDX-License-Identifier: Apache-2.0
// Threads: arrays that somebody writes to while the coder and the ops read them, which must cost
// nothing but the result; and what threads rightly share.
#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "coder/byte_rans.h"
#include "coder/rans.h"
#include "decoding/accept_tree.h"
#include "decoding/accept_tree_by_rejection.h"
#include "decoding/compact_rows.h"
#include "decoding/path_similarity.h"
#include "entropy/pmf_to_cdf.h"
#include "inputs.h"
#include "integer/integer_attention.h"
#include "integer/integer_frequencies.h"
#include "integer/integer_rms_norm.h"
#include "quantize/soft_cross_entropy.h"
#include "quantize/soft_cross_entropy_backward.h"
#include "tokens/select_tokens.h"

namespace hostile {
namespace {

using namespace genaccel;

constexpr int kReads = 200;  // of an array while it is written to

// Two versions of an array, one of which may be hostile, written in turn as long as it lives.
template <typename T>
class Writer {
 public:
  Writer(Array<T>& array, std::vector<T> other)
      : thread_([this, &array, other] {
          const std::vector<T> first(array.data(), array.data() + array.size());
          while (!done_.load(std::memory_order_relaxed)) {
            for (const std::vector<T>* version : {&other, &first}) {
              for (int64_t i = 0; i < array.size(); ++i) {
                static_cast<volatile T*>(array.data())[i] = (*version)[static_cast<size_t>(i)];
              }
            }
          }
        }) {}
  ~Writer() {
    done_.store(true, std::memory_order_relaxed);
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

template <typename T>
std::vector<T> values(Random& random, int64_t count) {
  std::vector<T> result(count);
  std::generate(result.begin(), result.end(), [&random] { return random.value<T>(); });
  return result;
}

void coders(Random& random, Tally& tally) {
  const int precision = static_cast<int>(random.between(2, 16));
  const int64_t alphabet = random.between(1, 4), count = random.between(1, 8);
  const std::vector<int32_t> rows = valid_rows(random, count, alphabet, precision);
  Array<int32_t> cdfs(random, count * (alphabet + 1)), symbols(random, count);
  std::copy(rows.begin(), rows.end(), cdfs.data());
  for (int64_t i = 0; i < count; ++i) {
    symbols[i] = static_cast<int32_t>(random.between(0, alphabet - 1));
  }
  coder::Encoder encoder(2);
  coder::ByteEncoder byte_encoder;
  encoder.push_cdfs(symbols.data(), count, rows.data(), alphabet, precision);
  byte_encoder.push_cdfs(symbols.data(), count, rows.data(), alphabet, precision);
  const std::vector<uint8_t> stream = encoder.finish(), bytes = byte_encoder.finish();
  std::vector<int32_t> found(count);

  // All in one interval, or anything; both make rows that would divide by zero.
  std::vector<int32_t> other = rows;
  if (random.one_in(2)) {
    std::fill(other.begin(), other.end(), int32_t{1} << precision);
  } else {
    other[random.between(0, static_cast<int64_t>(other.size()) - 1)] = random.value<int32_t>();
  }
  const Writer<int32_t> rows_writer(cdfs, other);
  const Writer<int32_t> symbols_writer(
      symbols, random.one_in(2) ? std::vector<int32_t>(count, 0) : values<int32_t>(random, count));
  const std::function<void()> calls[] = {
      [&] { encoder.push_cdfs(symbols.data(), count, cdfs.data(), alphabet, precision); },
      [&] { byte_encoder.push_cdfs(symbols.data(), count, cdfs.data(), alphabet, precision); },
      [&] {
        const auto tables =
            std::make_shared<coder::CdfTables>(cdfs.data(), count, alphabet, precision);
        encoder.push(symbols.data(), count, tables, {});
        coder::Decoder(stream.data(), stream.size(), 2).pull(found.data(), count, *tables, {});
      },
      [&] {
        coder::Decoder(stream.data(), stream.size(), 2)
            .pull_cdfs(found.data(), count, cdfs.data(), alphabet, precision);
      },
      [&] {
        coder::ByteDecoder(bytes.data(), bytes.size())
            .pull_cdfs(found.data(), count, cdfs.data(), alphabet, precision);
      }};
  for (int read = 0; read < kReads; ++read) {
    try {
      calls[read % std::size(calls)]();
      tally.count("coder race", "coded");
    } catch (const std::invalid_argument&) {
      tally.count("coder race", "arguments refused");
    } catch (const coder::StreamError&) {
      tally.count("coder race", "stream refused");
    }
    for (const int32_t symbol : found) {
      require(symbol >= 0 && symbol < alphabet, "a decoder made a symbol that does not exist");
    }
  }
  encoder.finish();
  byte_encoder.finish();
}

void indexing_ops(Random& random, Tally& tally) {
  const int64_t rows = random.between(1, 4), groups = 6, group_size = 8;
  const int64_t symbols = groups * group_size;
  Array<int32_t> logits(random, rows * symbols), table(random, rows * (group_size + 1));
  Array<int32_t> visible(random, rows), temperature(random, 1);
  Array<int64_t> group(random, rows), index(random, rows * 5);
  Array<int8_t> query(random, rows * 16), keys(random, symbols * 16), out8(random, rows * symbols);
  Array<float> score(random, rows * symbols), statistics(random, rows * 5), residue(random, rows);
  Array<double> pmf(random, rows * symbols);
  Array<int32_t> cdf(random, rows * (symbols + 1));
  logits.fill(random, 1000), visible.fill(random, symbols), temperature.fill(random, 1 << 20);
  group.fill(random, groups - 1), query.fill(random), keys.fill(random), score.fill(random, 9);
  pmf.fill(random, 9), statistics.fill(random, 9);
  temperature[0] = std::abs(temperature[0]);
  Array<float> features(random, rows * 3), book(random, symbols * 3);
  features.fill(random, 9), book.fill(random, 9);
  Array<float> packed(random, quantize::packed_soft_codes_size<float>(symbols, 3));
  quantize::pack_soft_codes_cpu(book.data(), packed.data(), symbols, 3);
  Array<float> to_features(random, rows * 3);

  const Writer<int32_t> logits_writer(logits, values<int32_t>(random, logits.size()));
  const Writer<int32_t> visible_writer(visible, values<int32_t>(random, rows));
  const Writer<int64_t> group_writer(group, values<int64_t>(random, rows));
  const Writer<float> score_writer(score, values<float>(random, score.size()));
  const Writer<double> pmf_writer(pmf, values<double>(random, pmf.size()));
  const integer::Frequencies frequencies = {logits.data(), group.data(), table.data(),
                                            symbols,       group_size,   8};
  const integer::Attention attention = {query.data(),
                                        keys.data(),
                                        keys.data(),
                                        visible.data(),
                                        temperature.data(),
                                        out8.data(),
                                        rows,
                                        symbols,
                                        1,
                                        16,
                                        300};
  const integer::RmsNorm norm = {logits.data(), out8.data(), symbols, 200, 1};
  const quantize::SoftCrossEntropyBackward<float, float> backward = {residue.data(),
                                                                     features.data(),
                                                                     book.data(),
                                                                     score.data(),
                                                                     group.data(),
                                                                     statistics.data(),
                                                                     rows,
                                                                     symbols,
                                                                     3,
                                                                     0.1,
                                                                     to_features.data(),
                                                                     nullptr,
                                                                     nullptr};
  // A tree of nodes that have the bytes of other indices, and rows that somebody moves elsewhere.
  Array<int64_t> path(random, rows * 6), counts(random, rows), moves(random, rows * 5);
  Array<double> uniforms(random, rows * rows);
  Array<float> left(random, rows * symbols), similarity_codes(random, 9 * 3);
  Array<int64_t> substituted(random, rows);
  Array<double> similarity(random, rows), depth_weights(random, 5);
  Array<int8_t> cache(random, rows * symbols);
  uniforms.fill(random, 1), similarity_codes.fill(random, 9), depth_weights.fill(random, 9);
  moves.fill(random, symbols);
  const Writer<int64_t> moves_writer(moves, values<int64_t>(random, moves.size()));
  const decoding::TreeWalk walk = {
      group.data(), moves.data(), moves.data(), path.data(), counts.data(), rows, 6};
  const int64_t vocabulary = symbols / rows;  // so that rows nodes have as many scores as there are
  Array<int64_t> neighbours(random, vocabulary * 5), visible_counts(random, rows);
  neighbours.fill(random, vocabulary), visible_counts.fill(random, 5);
  const Writer<int64_t> neighbours_writer(neighbours, values<int64_t>(random, neighbours.size()));
  const Writer<int64_t> counts_writer(visible_counts, values<int64_t>(random, rows));
  const decoding::TreeRejection<float> rejection = {group.data(),
                                                    moves.data(),
                                                    score.data(),
                                                    uniforms.data(),
                                                    neighbours.data(),
                                                    nullptr,
                                                    path.data(),
                                                    counts.data(),
                                                    left.data(),
                                                    substituted.data(),
                                                    nullptr,
                                                    rows,
                                                    0,
                                                    6,
                                                    vocabulary,
                                                    vocabulary,
                                                    5,
                                                    4,
                                                    0.5,
                                                    random.one_in(2)};
  const decoding::PathSets<float> sets = {
      moves.data(), similarity_codes.data(), depth_weights.data(), similarity.data(), 1, 5, 9, 3};
  const decoding::Compaction compaction = {
      moves.data(), group.data(), visible_counts.data(), rows, 1, symbols, 5, 1};
  const decoding::States states = {reinterpret_cast<char*>(cache.data()), symbols, symbols, 1};
  struct Call {
    const char* name;
    std::function<void()> run;
  };
  const Call calls[] = {
      {"integer_frequencies race", [&] { integer_frequencies_cpu(frequencies, 0, rows); }},
      {"integer_attention race", [&] { integer_attention_cpu(attention, 0, 1); }},
      {"integer_rms_norm race", [&] { integer_rms_norm_cpu(norm, 0, rows); }},
      {"pmf_to_cdf race",
       [&] { entropy::pmf_to_cdf_cpu(pmf.data(), cdf.data(), 0, rows, symbols, 16); }},
      {"select_tokens race",
       [&] {
         tokens::select_tokens_cpu(score.data(), index.data(), 0, rows, rows, 1, symbols, 5);
       }},
      {"accept_tree race", [&] { decoding::accept_tree_cpu(walk, 0, 1); }},
      {"accept_tree_by_rejection race",
       [&] { decoding::accept_tree_by_rejection_cpu(rejection, 0, 1); }},
      {"path_similarity race", [&] { decoding::path_similarity_cpu(sets, 0, rows); }},
      {"compact_rows_ race", [&] { decoding::compact_rows_cpu(compaction, states, 0, rows); }},
      {"soft_cross_entropy_backward race",
       [&] { soft_cross_entropy_backward_cpu(backward, packed.data(), residue.data(), 0, rows); }},
  };
  for (int read = 0; read < kReads; ++read) {
    const Call& call = calls[read % std::size(calls)];
    call.run();
    tally.count(call.name, "computed");
    for (int64_t i = 0; i < index.size(); ++i) {
      require(index[i] >= 0 && index[i] < symbols, "select_tokens: no such token");
    }
    for (int64_t row = 0; row < rows && read >= 5; ++row) {
      const int32_t* entry = table.data() + row * (group_size + 1);
      require(entry[0] == 0 && entry[group_size] == 65536, "integer_frequencies: ends");
      require(std::adjacent_find(entry, entry + group_size + 1, std::greater_equal<>()) ==
                  entry + group_size + 1,
              "integer_frequencies: falls");
    }
  }
}

}  // namespace

void race_input(Random& random, Tally& tally, Digest&) {
  random.one_in(2) ? coders(random, tally) : indexing_ops(random, tally);
}

// Tables, whose slots are made on first use, and the parts of an op: for TSan.
void shared_input(Random& random, Tally& tally, Digest&) {
  constexpr int kThreads = 4;
  const int64_t alphabet = random.between(1, 40), count = 64;
  const std::vector<int32_t> rows = valid_rows(random, 3, alphabet, 12);
  const auto tables = std::make_shared<coder::CdfTables>(rows.data(), 3, alphabet, 12);
  Array<int32_t> logits(random, kThreads * count), cdf(random, kThreads * (count + 1));
  logits.fill(random);
  const integer::Frequencies frequencies = {logits.data(), nullptr, cdf.data(), count, 1, 8};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread, seed = random.bits()] {
      Random own(seed);
      std::vector<int32_t> symbols(count), found(count);
      for (int32_t& symbol : symbols) {
        symbol = static_cast<int32_t>(own.between(0, alphabet - 1));
      }
      const coder::TableChoice choice = {own.between(0, 2), {}};
      coder::Encoder encoder(4);
      encoder.push(symbols.data(), count, tables, choice);
      const std::vector<uint8_t> stream = encoder.finish();
      coder::Decoder(stream.data(), stream.size(), 4).pull(found.data(), count, *tables, choice);
      require(found == symbols, "a stream decodes to other symbols");
      integer_frequencies_cpu(frequencies, thread, thread + 1);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  tally.count("shared tables", "decoded");
}

}  // namespace hostile
