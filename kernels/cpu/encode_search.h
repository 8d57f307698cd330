// The searches of qlab/methods/ggml_search.py, operation by operation. x and w hold N weights and their importance.
#pragma once
#include "encode.h"
#include "encode_lanes.h"

namespace {

struct Found {
  F scale, minimum;
};

template <bool kAbsolute>
inline F weighted(F difference, F w) {
  return w * (kAbsolute ? magnitude(difference) : difference * difference);
}

// make_qkx2_quants: levels 0 … top, scale and minimum ≤ 0.
template <int N, bool kAbsolute>
inline Found search_affine(const F* x, const F* w, float top, float first, float step, int steps, F* codes) {
  const F hi = largest<N>(x);
  F lo = smallest<N>(x);
  lo = lo > 0.0f ? F{} : lo;
  const I empty = hi <= lo;
  F sum_w = w[0], sum_x = w[0] * x[0];
  for (int i = 1; i < N; ++i) {
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  // Codes are rounded again at the end from what the best candidate rounded with.
  F inverse = top / (hi - lo), from = lo;
  F scale = 1.0f / inverse, minimum = lo, best{};
  for (int i = 0; i < N; ++i) {
    const F code = clamp(nearest((x[i] - lo) * inverse), 0, top);
    const F error = weighted<kAbsolute>(scale * code + lo - x[i], w[i]);
    best = i ? best + error : error;
  }
  for (int k = 0; k <= steps; ++k) {
    const F units = all(first + step * static_cast<float>(k) + top) / (hi - minimum);
    F trial[N], sum_l{}, sum_l2{}, sum_xl{};
    for (int i = 0; i < N; ++i) {
      trial[i] = clamp(nearest((x[i] - minimum) * units), 0, top);
      const F wl = w[i] * trial[i];
      sum_l = i ? sum_l + wl : wl;
      sum_l2 = i ? sum_l2 + wl * trial[i] : wl * trial[i];
      sum_xl = i ? sum_xl + wl * x[i] : wl * x[i];
    }
    const F det = sum_w * sum_l2 - sum_l * sum_l;
    F new_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
    F new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / det;
    const I positive = new_minimum > 0.0f;
    new_scale = positive ? sum_xl / sum_l2 : new_scale;
    new_minimum = positive ? F{} : new_minimum;
    F error = weighted<kAbsolute>(new_scale * trial[0] + new_minimum - x[0], w[0]);
    for (int i = 1; i < N; ++i) error += weighted<kAbsolute>(new_scale * trial[i] + new_minimum - x[i], w[i]);
    const I better = (det > 0.0f) & (error < best);
    best = better ? error : best;
    inverse = better ? units : inverse;
    from = better ? minimum : from;
    scale = better ? new_scale : scale;
    minimum = better ? new_minimum : minimum;
  }
  for (int i = 0; i < N; ++i) {
    const F code = clamp(nearest((x[i] - from) * inverse), 0, top);
    codes[i] = empty ? F{} : code;
  }
  return {empty ? F{} : scale, empty ? lo : minimum};
}

// make_qx_quants: levels −half … half − 1, found as 0 … 2 · half − 1; gives the scale.
template <int N>
inline F search_symmetric(const F* x, const F* w, int half, F* codes) {
  const float low = static_cast<float>(-half), high = static_cast<float>(half - 1);
  F extreme = farthest<N>(x);
  const I empty = magnitude(extreme) < kSmall;
  extreme = empty ? all(1) : extreme;
  F scale{}, best{}, chosen{};
  for (int number = 0; number < 19; ++number) {
    const int k = number == 0 ? 0 : number <= 9 ? number - 10 : number - 9;  // 0, then −9 … 9 without it
    const F inverse = all(-(static_cast<float>(half) + 0.1f * static_cast<float>(k))) / extreme;
    F sum_lx{}, sum_l2{};
    for (int i = 0; i < N; ++i) {
      const F trial = clamp(nearest(x[i] * inverse), low, high);
      const F lx = w[i] * x[i] * trial, l2 = w[i] * trial * trial;
      sum_lx = i ? sum_lx + lx : lx;
      sum_l2 = i ? sum_l2 + l2 : l2;
    }
    const I better = number ? (sum_l2 > 0.0f) & (sum_lx * sum_lx > best * sum_l2) : I{} - 1;
    const F fitted = number ? sum_lx / sum_l2 : sum_l2 > 0.0f ? sum_lx / sum_l2 : F{};
    scale = better ? fitted : scale;
    best = better ? fitted * sum_lx : best;
    chosen = better ? inverse : chosen;
  }
  for (int i = 0; i < N; ++i) {
    const F code = clamp(nearest(x[i] * chosen), low, high);
    codes[i] = (empty ? all(low) : code) + static_cast<float>(half);
  }
  return empty ? F{} : scale;
}

// Up to five rounds over the codes, each set to what the others' scale makes of it if that explains more; the scale.
template <int N, bool kBoth>
inline F descend(const F* x, const F* w, F* codes, float low, float high) {
  F sum_lx{}, sum_l2{};
  for (int i = 0; i < N; ++i) {
    const F lx = w[i] * x[i] * codes[i], l2 = w[i] * codes[i] * codes[i];
    sum_lx = i ? sum_lx + lx : lx;
    sum_l2 = i ? sum_l2 + l2 : l2;
  }
  for (int round = 0; round < 5; ++round) {
    I changed{};
    for (int i = 0; i < N; ++i) {
      const F old = codes[i], wx = w[i] * x[i];
      const F lx = sum_lx - wx * old, l2 = sum_l2 - w[i] * old * old;
      const F code = clamp(nearest(x[i] * l2 / lx), low, high);
      const F new_lx = lx + wx * code, new_l2 = l2 + w[i] * code * code;
      I better = (lx > 0.0f) & (code != old) & (new_l2 > 0.0f) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2);
      if (kBoth) better &= l2 > 0.0f;
      codes[i] = better ? code : old;
      sum_lx = better ? new_lx : sum_lx;
      sum_l2 = better ? new_l2 : sum_l2;
      changed |= better;
    }
    if (!any(changed)) break;
  }
  return sum_l2 > 0.0f ? sum_lx / sum_l2 : F{};
}

// make_q3_quants: round once, then change one code after the other.
template <int N>
inline F refine_symmetric(const F* x, const F* w, int half, F* codes) {
  const float low = static_cast<float>(-half), high = static_cast<float>(half - 1);
  F extreme = farthest<N>(x);
  const I empty = magnitude(extreme) < kSmall;
  const F inverse = low / (empty ? all(1) : extreme);
  for (int i = 0; i < N; ++i) codes[i] = clamp(nearest(x[i] * inverse), low, high);
  const F scale = descend<N, false>(x, w, codes, low, high);
  for (int i = 0; i < N; ++i) codes[i] = (empty ? all(low) : codes[i]) + static_cast<float>(half);
  return empty ? F{} : scale;
}

// make_qp_quants: scales or minima x ≥ 0 on levels 0 … top.
template <int N>
inline F fit_scales(const F* x, const F* w, float top, F* codes) {
  F hi = largest<N>(x);
  const I empty = hi < kSmall;
  hi = empty ? all(1) : hi;
  F chosen{}, best{};
  for (int number = 0; number < 9; ++number) {
    const int k = number == 0 ? 0 : number <= 4 ? number - 5 : number - 4;  // 0, then −4 … 4 without it
    const F inverse = all(0.1f * static_cast<float>(k) + top) / hi, size = 1.0f / inverse;
    F error{};
    for (int i = 0; i < N; ++i) {
      const F code = nearest(inverse * x[i]);
      const F e = weighted<false>(x[i] - size * (code > top ? all(top) : code), w[i]);
      error = i ? error + e : e;
    }
    const I better = number ? error < best : I{} - 1;
    best = better ? error : best;
    chosen = better ? inverse : chosen;
  }
  for (int i = 0; i < N; ++i) {
    const F code = nearest(chosen * x[i]);
    codes[i] = code > top ? all(top) : code;
  }
  const F scale = descend<N, true>(x, w, codes, 0, top);
  for (int i = 0; i < N; ++i) codes[i] = empty ? F{} : codes[i];
  return empty ? F{} : scale;
}

// The nearest of IQ4_NL's levels; a tie goes to the upper one.
inline F nearest_level(F x) {
  F level = all(kLevels[0]);
  for (int i = 1; i < 16; ++i) level = all((kLevels[i] + kLevels[i - 1]) / 2) > x ? level : all(kLevels[i]);
  return level;
}

// Its number.
inline I level_index(F x) {
  I index{};
  for (int i = 1; i < 16; ++i) index += (all((kLevels[i] + kLevels[i - 1]) / 2) > x) + 1;
  return index;
}

// IQ4_NL's scale: the extreme weight is put near the first level.
template <int N>
inline F search_levels(const F* x, const F* w) {
  F extreme = farthest<N>(x);
  const I empty = magnitude(extreme) < kSmall;
  extreme = empty ? all(1) : extreme;
  F scale{}, best{};
  for (int number = 0; number < 16; ++number) {
    const float k = static_cast<float>(number - 8);  // the first is none of them, then −7 … 7
    const F inverse = number ? all(k + kLevels[0]) / extreme : 1.0f / (-extreme / kLevels[0]);
    F sum_qx{}, sum_q2{};
    for (int i = 0; i < N; ++i) {
      const F q = nearest_level(inverse * x[i]);
      const F qx = w[i] * q * x[i], q2 = w[i] * q * q;
      sum_qx = i ? sum_qx + qx : qx;
      sum_q2 = i ? sum_q2 + q2 : q2;
    }
    const I better = number ? (sum_q2 > 0.0f) & (sum_qx * sum_qx > best * sum_q2) : I{} - 1;
    scale = better ? sum_qx / sum_q2 : scale;
    best = better ? scale * sum_qx : best;
  }
  return empty ? F{} : scale;
}

}  // namespace
