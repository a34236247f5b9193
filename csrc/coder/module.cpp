// SPDX-License-Identifier: Apache-2.0
// genaccel._coder: unpacks Python arguments, releases the GIL, calls. No coding here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <mutex>
#include <string>

#include "coder/byte_rans.h"
#include "coder/cdf_tables.h"
#include "coder/crc32c.h"
#include "coder/rans.h"
#include "common/read_once.h"

namespace py = pybind11;

namespace genaccel::coder {
namespace {

// A C-contiguous array: a silent conversion would hide a caller's mistake.
py::array as_contiguous(const py::object& object, int dimensions, const char* name) {
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(std::string(name) + " must be a numpy array, got " +
                         std::string(py::str(py::type::of(object).attr("__name__"))));
  }
  auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() != dimensions) {
    throw py::value_error(std::string(name) + " must have " + std::to_string(dimensions) +
                          " dimensions, got " + std::to_string(array.ndim()));
  }
  if (!(array.flags() & py::array::c_style)) {
    throw py::value_error(std::string(name) + " must be C-contiguous");
  }
  return array;
}

// np.frombuffer(data, np.int32, offset=1) lies anywhere.
template <typename T>
const T* aligned_elements(const py::array& array, const char* name) {
  const void* data = array.data();
  if (array.size() > 0 && reinterpret_cast<uintptr_t>(data) % alignof(T) != 0) {
    throw py::value_error(std::string(name) + " must be aligned to its elements: copy it first");
  }
  return static_cast<const T*>(data);
}

template <typename T>
bool holds(const py::array& array) {
  return array.dtype().equal(py::dtype::of<T>());
}

[[noreturn]] void throw_bad_type(const py::array& array, const char* name, const char* expected) {
  throw py::type_error(std::string(name) + " must be " + expected + ", got " +
                       std::string(py::str(array.dtype())));
}

py::array_t<int32_t> as_int32(const py::object& object, int dimensions, const char* name) {
  const py::array array = as_contiguous(object, dimensions, name);
  if (!holds<int32_t>(array)) {
    throw_bad_type(array, name, "int32");
  }
  aligned_elements<int32_t>(array, name);
  return py::reinterpret_borrow<py::array_t<int32_t>>(array);
}

// cdfs [count, alphabet_size + 1]
struct Rows {
  py::array_t<int32_t> array;
  int64_t count;
  int64_t alphabet_size;
};

Rows as_rows(const py::object& object) {
  py::array_t<int32_t> array = as_int32(object, 2, "cdfs");
  if (array.shape(1) < 2) {
    throw py::value_error("cdfs must have at least 2 columns, got " +
                          std::to_string(array.shape(1)));
  }
  return {array, array.shape(0), array.shape(1) - 1};
}

void check_rows(const Rows& rows, int precision) {
  if (precision < 1 || precision > kMaxPrecision) {
    throw py::value_error("precision must be in [1, " + std::to_string(kMaxPrecision) + "], got " +
                          std::to_string(precision));
  }
  if (rows.alphabet_size > int64_t{1} << precision) {
    throw py::value_error("cdfs must have at most 2^precision symbols, got " +
                          std::to_string(rows.alphabet_size));
  }
}

template <typename T>
std::vector<uint16_t> checked_ids(const py::array& array, int64_t num_tables) {
  const T* ids = aligned_elements<T>(array, "table_ids");
  std::vector<uint16_t> checked(array.size());
  for (size_t i = 0; i < checked.size(); ++i) {
    const int64_t id = read_once(ids + i);
    if (id < 0 || id >= num_tables) {
      throw py::value_error("table_ids must be in [0, " + std::to_string(num_tables) + "), got " +
                            std::to_string(id));
    }
    checked[i] = static_cast<uint16_t>(id);
  }
  return checked;
}

TableChoice as_choice(const py::object& object, int64_t count, int64_t num_tables) {
  TableChoice choice;
  if (!py::isinstance<py::array>(object)) {
    if (PyIndex_Check(object.ptr()) == 0) {
      throw py::type_error("table_ids must be an int, or a uint8 or int32 array");
    }
    // Clipped to ssize_t: a larger one is out of range all the same.
    choice.one = PyNumber_AsSsize_t(object.ptr(), nullptr);
    if (PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    return choice;
  }
  const py::array array = as_contiguous(object, 1, "table_ids");
  if (array.shape(0) != count) {
    throw py::value_error("table_ids must have one entry per symbol: expected " +
                          std::to_string(count) + ", got " + std::to_string(array.shape(0)));
  }
  if (holds<uint8_t>(array)) {
    choice.each = checked_ids<uint8_t>(array, num_tables);
  } else if (holds<int32_t>(array)) {
    choice.each = checked_ids<int32_t>(array, num_tables);
  } else {
    throw_bad_type(array, "table_ids", "uint8 or int32");
  }
  return choice;
}

void check_count(int64_t count) {
  if (count < 0) {
    throw py::value_error("count must not be negative, got " + std::to_string(count));
  }
}

// A coder that only one thread at a time is inside of, though the GIL is released.
template <typename Coder>
struct Guarded {
  template <typename... Arguments>
  explicit Guarded(Arguments&&... arguments) : coder(std::forward<Arguments>(arguments)...) {}
  Coder coder;
  std::mutex mutex;
};

struct GilFreeLock {
  explicit GilFreeLock(std::mutex& mutex) : lock(mutex) {}
  py::gil_scoped_release release;  // first: waiting for the mutex with the GIL would deadlock
  std::lock_guard<std::mutex> lock;
};

using PyEncoder = Guarded<Encoder>;
using PyDecoder = Guarded<Decoder>;
using PyByteEncoder = Guarded<ByteEncoder>;
using PyByteDecoder = Guarded<ByteDecoder>;

void encoder_push(PyEncoder& self, const py::object& symbols,
                  const std::shared_ptr<CdfTables>& tables, const py::object& table_ids) {
  const auto array = as_int32(symbols, 1, "symbols");
  TableChoice choice = as_choice(table_ids, array.shape(0), tables->num_tables());
  const int32_t* data = array.data();
  const int64_t count = array.shape(0);
  const GilFreeLock lock(self.mutex);
  self.coder.push(data, count, tables, std::move(choice));
}

template <typename Coder>
void encoder_push_cdfs(Guarded<Coder>& self, const py::object& symbols, const py::object& cdfs,
                       int precision) {
  const auto array = as_int32(symbols, 1, "symbols");
  const Rows rows = as_rows(cdfs);
  check_rows(rows, precision);
  if (rows.count != array.shape(0)) {
    throw py::value_error("cdfs must have one row per symbol: expected " +
                          std::to_string(array.shape(0)) + ", got " + std::to_string(rows.count));
  }
  const int32_t* data = array.data();
  const int32_t* row_data = rows.array.data();
  const GilFreeLock lock(self.mutex);
  self.coder.push_cdfs(data, rows.count, row_data, rows.alphabet_size, precision);
}

template <typename Coder>
py::bytes encoder_finish(Guarded<Coder>& self) {
  std::vector<uint8_t> stream;
  {
    const GilFreeLock lock(self.mutex);
    stream = self.coder.finish();
  }
  return {reinterpret_cast<const char*>(stream.data()), stream.size()};
}

py::buffer_info as_bytes(const py::buffer& data) {
  py::buffer_info info = data.request();
  if (info.itemsize != 1 || info.ndim != 1 || (info.size > 1 && info.strides[0] != 1)) {
    throw py::value_error("data must be a contiguous buffer of bytes");
  }
  return info;
}

template <typename PyCoder, typename... Arguments>
std::unique_ptr<PyCoder> make_decoder(const py::buffer& data, Arguments... arguments) {
  const py::buffer_info info = as_bytes(data);
  return std::make_unique<PyCoder>(static_cast<const uint8_t*>(info.ptr),
                                   static_cast<size_t>(info.size), arguments...);
}

py::array_t<int32_t> decoder_pull(PyDecoder& self, int64_t count,
                                  const std::shared_ptr<CdfTables>& tables,
                                  const py::object& table_ids) {
  check_count(count);
  const TableChoice choice = as_choice(table_ids, count, tables->num_tables());
  py::array_t<int32_t> symbols(count);
  int32_t* out = symbols.mutable_data();
  const GilFreeLock lock(self.mutex);
  self.coder.pull(out, count, *tables, choice);
  return symbols;
}

template <typename Coder>
py::array_t<int32_t> decoder_pull_cdfs(Guarded<Coder>& self, const py::object& cdfs,
                                       int precision) {
  const Rows rows = as_rows(cdfs);
  check_rows(rows, precision);
  py::array_t<int32_t> symbols(rows.count);
  int32_t* out = symbols.mutable_data();
  const int32_t* row_data = rows.array.data();
  const GilFreeLock lock(self.mutex);
  self.coder.pull_cdfs(out, rows.count, row_data, rows.alphabet_size, precision);
  return symbols;
}

template <typename Coder>
void decoder_finish(Guarded<Coder>& self) {
  const GilFreeLock lock(self.mutex);
  self.coder.finish();
}

uint32_t checksum(const py::buffer& data, uint32_t value) {
  const py::buffer_info info = as_bytes(data);
  const py::gil_scoped_release release;
  return crc32c(static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size), value);
}

}  // namespace

PYBIND11_MODULE(_coder, m) {
  m.doc() = "Range coder (interleaved rANS) and checksum. Arrays are numpy, C-contiguous.";

  py::register_exception<StreamError>(m, "StreamError", PyExc_ValueError).doc() =
      "The bytes are no stream of this coder, or of other tables.";

  m.def("crc32c", &checksum, py::arg("data"), py::arg("value") = 0,
        "CRC-32C (Castagnoli) of a bytes-like object, continued from the checksum `value`.");

  py::class_<CdfTables, std::shared_ptr<CdfTables>>(
      m, "CdfTables",
      "Immutable cumulative tables: int32 [tables, symbols + 1], each from 0 to 2**precision, "
      "strictly\n"
      "increasing; precision 1 to 16. ValueError otherwise.")
      .def(py::init([](const py::object& cdfs, int precision) {
             const Rows rows = as_rows(cdfs);
             return std::make_shared<CdfTables>(rows.array.data(), rows.count, rows.alphabet_size,
                                                precision);
           }),
           py::arg("cdfs"), py::arg("precision"))
      .def_property_readonly("num_tables", &CdfTables::num_tables)
      .def_property_readonly("alphabet_size", &CdfTables::alphabet_size)
      .def_property_readonly("precision", &CdfTables::precision);

  py::class_<PyEncoder>(
      m, "RansEncoder",
      "Collects symbols and makes one stream of them, with 1 to 64 interleaved lanes.")
      .def(py::init<int>(), py::arg("lanes") = 1)
      .def("push", &encoder_push, py::arg("symbols"), py::arg("tables").none(false),
           py::arg("table_ids") = 0,
           "Append int32 [N] symbols; table_ids is one table for all, or uint8 or int32 [N].")
      .def("push_cdfs", &encoder_push_cdfs<Encoder>, py::arg("symbols"), py::arg("cdfs"),
           py::arg("precision"),
           "Append int32 [N] symbols, each with a table of its own: cdfs int32 [N, symbols + 1].")
      .def("finish", &encoder_finish<Encoder>,
           "The stream of everything pushed, as bytes; the encoder is empty afterwards.");

  py::class_<PyDecoder>(m, "RansDecoder",
                        "Reads the symbols of a stream in the order in which they were pushed.")
      .def(py::init(&make_decoder<PyDecoder, int>), py::arg("data"), py::arg("lanes") = 1)
      .def("pull", &decoder_pull, py::arg("count"), py::arg("tables").none(false),
           py::arg("table_ids") = 0,
           "The next `count` symbols, int32. StreamError if the stream ends before.")
      .def("pull_cdfs", &decoder_pull_cdfs<Decoder>, py::arg("cdfs"), py::arg("precision"),
           "The next symbols, one per row of cdfs int32 [N, symbols + 1].")
      .def("finish", &decoder_finish<Decoder>,
           "StreamError unless all of the stream was read and every lane ends where it began.")
      .def_property_readonly(
          "bytes_read",
          [](PyDecoder& self) {
            const GilFreeLock lock(self.mutex);
            return self.coder.bytes_read();
          },
          "Bytes that the symbols so far needed: a stream cut off there still gives them.");

  py::class_<PyByteEncoder>(m, "ByteRansEncoder",
                            "Like RansEncoder with one lane, but renormalised by bytes, as the "
                            "files of RDVQ are; with tables per symbol only.")
      .def(py::init<>())
      .def("push_cdfs", &encoder_push_cdfs<ByteEncoder>, py::arg("symbols"), py::arg("cdfs"),
           py::arg("precision"),
           "Append int32 [N] symbols, each with a table of its own: cdfs int32 [N, symbols + 1].")
      .def("finish", &encoder_finish<ByteEncoder>,
           "The stream of everything pushed, as bytes; the encoder is empty afterwards.");

  py::class_<PyByteDecoder>(m, "ByteRansDecoder", "Reads what ByteRansEncoder makes.")
      .def(py::init(&make_decoder<PyByteDecoder>), py::arg("data"))
      .def("pull_cdfs", &decoder_pull_cdfs<ByteDecoder>, py::arg("cdfs"), py::arg("precision"),
           "The next symbols, one per row of cdfs int32 [N, symbols + 1].")
      .def("finish", &decoder_finish<ByteDecoder>,
           "StreamError unless all of the stream was read and the state is back at its start.");
}

}  // namespace genaccel::coder
