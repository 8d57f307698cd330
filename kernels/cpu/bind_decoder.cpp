// Python binding of the decoder: it keeps the arrays that it was given alive.
#include "bind.h"
#include "decoder.h"

#include <memory>
#include <mutex>

namespace {

// The decoder, what its pointers point into, and how many tokens its cache holds.
struct Held {
  std::vector<nb::object> arrays;
  std::unique_ptr<Decoder> decoder;
  int64_t past = 0;
  std::mutex reading;
};

class Builder {
 public:
  explicit Builder(std::vector<nb::object>& keep) : keep_(keep) {}

  // A dict with the fields of a packed matrix, and a bias or None.
  Linear linear(const nb::dict& of, const char* name, int64_t rows, int64_t columns) {
    const nb::dict d = nb::cast<nb::dict>(of[name]);
    const auto optional = [&](const char* key) {
      return d[key].is_none() ? std::optional<Any>() : std::optional<Any>(array<Any>(d[key]));
    };
    const Matrix m = matrix(nb::cast<std::string>(d["format"]), array<Array<const uint8_t>>(d["codes"]),
                            optional("scale"), optional("offset"), optional("sub"), nb::cast<int64_t>(d["group"]),
                            nb::cast<int64_t>(d["rows"]));
    if (m.rows != rows || m.columns != columns)
      throw std::invalid_argument(std::string(name) + " is [" + std::to_string(m.rows) + ", " + std::to_string(m.columns) +
                                  "] where [" + std::to_string(rows) + ", " + std::to_string(columns) + "] is expected");
    return {m.format, m.tiles, m.rows, m.columns, floats_or_null(d, "bias", {rows}), order(d, columns)};
  }

  const float* floats(const nb::dict& of, const char* name, std::initializer_list<int64_t> shape) {
    const auto found = array<Array<const float>>(of[name]);
    expect(found, name, shape);
    return found.data();
  }

  const float* floats_or_null(const nb::dict& of, const char* name, std::initializer_list<int64_t> shape) {
    return of[name].is_none() ? nullptr : floats(of, name, shape);
  }

 private:
  // Each column once.
  const int64_t* order(const nb::dict& of, int64_t columns) {
    if (of["order"].is_none()) return nullptr;
    const auto found = array<Array<const int64_t>>(of["order"]);
    expect(found, "order", {columns});
    for (int64_t i = 0; i < columns; ++i)
      if (found.data()[i] < 0 || found.data()[i] >= columns)
        throw std::out_of_range("order holds " + std::to_string(found.data()[i]) + ": there are " + std::to_string(columns) + " columns");
    return found.data();
  }

  template <class A>
  A array(nb::handle object) {
    keep_.push_back(nb::borrow(object));
    A found;
    if (!nb::try_cast<A>(object, found, false)) throw std::invalid_argument("an array has the wrong dtype, layout or device");
    keep_.push_back(nb::cast(found));
    return found;
  }

  std::vector<nb::object>& keep_;
};

void build(Held* self, const nb::dict& model) {
  new (self) Held();
  const auto number = [&](const char* name) { return nb::cast<int64_t>(model[name]); };
  Shape s{};
  s.hidden = number("hidden");
  s.heads = number("heads");
  s.kv_heads = number("kv_heads");
  s.head = number("head");
  s.intermediate = number("intermediate");
  s.capacity = number("capacity");
  s.epsilon = nb::cast<float>(model["epsilon"]);
  s.half = nb::cast<bool>(model["half"]);
  if (s.head % 16 || s.head < 16) throw std::invalid_argument("head is " + std::to_string(s.head) + ": a multiple of 16 is needed");
  if (s.kv_heads < 1 || s.heads % s.kv_heads)
    throw std::invalid_argument("heads is " + std::to_string(s.heads) + ": kv_heads, " + std::to_string(s.kv_heads) + ", must divide it");
  if (s.capacity < 1) throw std::invalid_argument("capacity is " + std::to_string(s.capacity) + ": room for one token is needed");
  Builder builder(self->arrays);
  std::vector<Layer> layers;
  const int64_t wide = s.heads * s.head, narrow = s.kv_heads * s.head;
  for (nb::handle item : nb::cast<nb::list>(model["layers"])) {
    const nb::dict d = nb::cast<nb::dict>(item);
    Layer l{};
    l.q = builder.linear(d, "q", wide, s.hidden);
    l.k = builder.linear(d, "k", narrow, s.hidden);
    l.v = builder.linear(d, "v", narrow, s.hidden);
    l.o = builder.linear(d, "o", s.hidden, wide);
    l.gate = builder.linear(d, "gate", s.intermediate, s.hidden);
    l.up = builder.linear(d, "up", s.intermediate, s.hidden);
    l.down = builder.linear(d, "down", s.hidden, s.intermediate);
    l.attention_norm = builder.floats(d, "attention_norm", {s.hidden});
    l.mlp_norm = builder.floats(d, "mlp_norm", {s.hidden});
    l.q_norm = builder.floats_or_null(d, "q_norm", {s.head});
    l.k_norm = builder.floats_or_null(d, "k_norm", {s.head});
    layers.push_back(l);
  }
  const int64_t vocabulary = number("vocabulary");
  const Linear embedding = builder.linear(model, "embedding", vocabulary, s.hidden);
  const Linear head = builder.linear(model, "output", vocabulary, s.hidden);
  const float* norm = builder.floats(model, "norm", {s.hidden});
  const float* cosines = builder.floats(model, "cosines", {s.capacity, s.head / 2});
  const float* sines = builder.floats(model, "sines", {s.capacity, s.head / 2});
  self->decoder = std::make_unique<Decoder>(s, std::move(layers), embedding, norm, head, cosines, sines);
}

void read_tokens(Held& self, const Array<const int64_t>& ids, const Array<float>& logits, int threads, const std::string& isa) {
  Decoder& decoder = *self.decoder;
  if (ids.ndim() != 1 || !ids.shape(0)) throw std::invalid_argument("ids must be one row of at least one token");
  const int64_t count = ids.shape(0);
  expect(logits, "logits", {decoder.vocabulary()});
  for (int64_t i = 0; i < count; ++i)
    if (ids.data()[i] < 0 || ids.data()[i] >= decoder.vocabulary())
      throw std::out_of_range("ids holds " + std::to_string(ids.data()[i]) + ": the vocabulary has " + std::to_string(decoder.vocabulary()));
  if (self.past + count > decoder.shape().capacity)
    throw std::out_of_range(std::to_string(self.past + count) + " tokens do not fit: the cache has room for " + std::to_string(decoder.shape().capacity));
  at_least_one(threads);
  const Isa& chosen = isa_named(isa);
  const std::unique_lock<std::mutex> alone(self.reading, std::try_to_lock);
  if (!alone) throw std::runtime_error("another thread is reading with this decoder: give each thread its own");
  {
    const Released released;
    decoder.read(ids.data(), count, self.past, logits.data(), chosen, threads);
  }
  self.past += count;
}

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::class_<Held>(m, "Decoder", "A llama-family model on packed weights, with its cache of keys and values.")
      .def("__init__", &build, nb::arg("model"))
      .def("read", &read_tokens, nb::arg("ids").noconvert(), nb::arg("logits").noconvert(), nb::arg("threads") = 1, nb::arg("isa") = "")
      .def("rewind", [](Held& self, int64_t past) {
            if (past < 0 || past > self.past) throw std::out_of_range("past is " + std::to_string(past) + ": the cache holds " + std::to_string(self.past) + " tokens");
            self.past = past;
          }, nb::arg("past") = 0)
      .def_prop_ro("past", [](const Held& self) { return self.past; })
      .def_prop_ro("cache_bytes", [](const Held& self) { return self.decoder->cache_bytes(); });
}
