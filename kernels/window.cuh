// What a window stores: saturated, and cast.
template <class T>
DEVICE T clamped(T v, T low, T high) {  // NaN stays NaN. Comparisons, not fminf: that blocks vectorisation.
    v = v < low ? low : v;
    return v > high ? high : v;
}
DEVICE void put(f32& d, f32 v, f32 bottom, f32 top) { d = clamped(v, bottom, top); }
DEVICE void put(u8& d, f32 v, f32 bottom, f32 top) {  // NaN becomes bottom; rounds to nearest even
    v = v > bottom ? v : bottom;
    d = (u8)__float2int_rn(v < top ? v : top);
}
