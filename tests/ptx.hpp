// Instructions of PTX as C++ functions, and a launch that runs threads one after another, looks at what they access and
// counts what a GPU would have to do, which runs 32 of them at once.
//
// An instruction is named after its opcode, with its types and .ftz as template arguments: `add.rn.ftz.f32` is
// `add_rn<f32, true>`. Source: PTX ISA 9.0, chapter 9.7. An instruction that is not here does not compile.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

using u8 = uint8_t;
using s8 = int8_t;
using u16 = uint16_t;
using s16 = int16_t;
using u32 = uint32_t;
using s32 = int32_t;
using u64 = uint64_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

namespace {

struct Dim {
    u32 x, y, z;
};

template <class T>
T get(const u8* p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}
template <class T>
void put(u8* p, T value) {
    memcpy(p, &value, sizeof value);
}
template <class T, class From>
T bits(From from) {
    static_assert(sizeof(T) == sizeof(From), "as many bits");
    return get<T>((const u8*)&from);
}
template <class T>
constexpr bool is_real = std::is_floating_point_v<T>;

f32 without_subnormal(f32 x) { return bits<u32>(x) & 0x7F800000u ? x : bits<f32>(bits<u32>(x) & 0x80000000u); }

// A register or an immediate as an instruction of type T reads it: its low bits.
template <class T, bool ftz = false, class From>
T in(From from) {
    if constexpr (is_real<T> == is_real<From>) {
        if constexpr (ftz && std::is_same_v<T, f32>) return without_subnormal(T(from));
        return T(from);
    } else {
        return bits<T>(from);
    }
}
// A value into a register as wide or wider: integers are sign- or zero-extended by their own type.
template <class R, class T>
void set(R& reg, T value) {
    static_assert(sizeof(T) <= sizeof(R), "fits");
    if constexpr (is_real<R> == is_real<T>)
        reg = R(value);
    else
        reg = bits<R>(value);
}
// What floating-point arithmetic gives: its NaN of single precision has one pattern.
template <bool ftz, class T>
T result(T x) {
    if constexpr (std::is_same_v<T, f32>) {
        if (x != x) return bits<f32>(u32(0x7FFFFFFF));
        if (ftz) return without_subnormal(x);
    }
    return x;
}

#define UNARY(name, expression)                        \
    template <class T, bool ftz, class A>              \
    T name(A first) {                                  \
        const T a = in<T, ftz>(first);                 \
        return result<ftz>(T(expression));             \
    }
#define BINARY(name, expression)                                           \
    template <class T, bool ftz, class A, class B>                         \
    T name(A first, B second) {                                            \
        const T a = in<T, ftz>(first), b = in<T, ftz>(second);             \
        return result<ftz>(T(expression));                                 \
    }
#define COMPARISON(name, expression)                           \
    template <class T, bool ftz, class A, class B>             \
    bool setp_##name(A first, B second) {                      \
        const T a = in<T, ftz>(first), b = in<T, ftz>(second); \
        return expression;                                     \
    }

UNARY(mov, a)
UNARY(cvta_to, a)
UNARY(neg, -a)
template <class T, bool, class A>
T not_(A first) {
    if constexpr (std::is_same_v<T, bool>)
        return !first;
    else
        return T(~in<T>(first));
}

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul_lo, a * u64(b))
BINARY(add_rn, a + b)
BINARY(sub_rn, a - b)
BINARY(mul_rn, a * b)
BINARY(div, a / b)
BINARY(rem, a % b)
BINARY(and_, a & b)
BINARY(or_, a | b)
BINARY(xor_, a ^ b)
// Of a number and NaN the number; of the zeros, -0 is less.
template <class T>
bool is_less(T a, T b) {
    if constexpr (is_real<T>) {
        if (a != a || b != b) return b != b;
        if (a == b) return std::signbit(a) && !std::signbit(b);
    }
    return a < b;
}
template <class T>
bool is_nan(T a) {
    return a != a;
}
BINARY(min, is_less(a, b) ? a : b)
BINARY(max, is_nan(a) || (!is_nan(b) && is_less(a, b)) ? b : a)

COMPARISON(eq, a == b)
COMPARISON(ne, a < b || a > b)
COMPARISON(lt, a < b)
COMPARISON(le, a <= b)
COMPARISON(gt, a > b)
COMPARISON(ge, a >= b)
COMPARISON(equ, !(a < b || a > b))
COMPARISON(neu, !(a == b))
COMPARISON(ltu, !(a >= b))
COMPARISON(leu, !(a > b))
COMPARISON(gtu, !(a <= b))
COMPARISON(geu, !(a < b))

template <class T, bool ftz, class A, class B, class P>
T selp(A first, B second, P choice) {
    return choice ? in<T>(first) : in<T>(second);
}
// Shifts beyond the width give 0, or the sign.
template <class T, bool, class A, class B>
T shl(A first, B second) {
    const u32 n = in<u32>(second);
    return n >= 8 * sizeof(T) ? T(0) : T(u64(in<T>(first)) << n);
}
template <class T, bool, class A, class B>
T shr(A first, B second) {
    const u32 n = in<u32>(second), most = 8 * sizeof(T) - 1;
    return n <= most ? T(in<T>(first) >> n) : T(std::is_signed_v<T> ? in<T>(first) >> most : 0);
}
template <class T>
using Twice = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                                 std::conditional_t<std::is_signed_v<T>, s64, u64>>;
template <class T, bool, class A, class B>
Twice<T> mul_wide(A first, B second) {
    return Twice<T>(in<T>(first)) * Twice<T>(in<T>(second));
}
template <class T, bool, class A, class B, class C>
T mad_lo(A first, B second, C third) {
    return T(in<T>(first) * u64(in<T>(second)) + in<T>(third));
}
template <class T, bool ftz, class A, class B, class C>
T fma_rn(A first, B second, C third) {
    return result<ftz>(std::fma(in<T, ftz>(first), in<T, ftz>(second), in<T, ftz>(third)));
}
// Four bytes of two words; bit 3 of a selector spreads the sign of its byte.
template <class T, bool, class A, class B, class C>
T prmt(A first, B second, C selectors) {
    const u64 word = u64(in<u32>(second)) << 32 | in<u32>(first);
    u32 found = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 selector = in<u32>(selectors) >> 4 * i & 15;
        const u32 byte = u32(word >> 8 * (selector & 7)) & 255;
        found |= (selector & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
    }
    return found;
}

// A whole number, kept within the range of D; NaN becomes 0, or the least number where either type has 64 bits.
template <class D, class S>
D clamped(S x) {
    constexpr f64 end = std::is_signed_v<D> ? -f64(std::make_signed_t<D>(1ull << (8 * sizeof(D) - 1)))
                                            : 2.0 * f64(1ull << (8 * sizeof(D) - 1));
    constexpr D most = D(std::is_signed_v<D> ? (1ull << (8 * sizeof(D) - 1)) - 1 : ~0ull);
    if (x != x) return sizeof(D) == 8 || sizeof(S) == 8 ? D(1ull << (8 * sizeof(D) - 1)) : D(0);
    if (x >= end) return most;
    return x < (std::is_signed_v<D> ? -end : 0.0) ? D(most + 1) : D(x);
}
template <class D, class S, bool ftz, class A>
D cvt(A first) {
    return D(in<S, ftz>(first));
}
template <class D, class S, bool ftz, class A>
D cvt_rn(A first) {
    return result<ftz>(D(in<S, ftz>(first)));
}
#define TO_WHOLE(name, function)                                  \
    template <class D, class S, bool ftz, class A>                \
    D name(A first) {                                             \
        const S x = std::function(in<S, ftz>(first));             \
        if constexpr (is_real<D>)                                 \
            return result<ftz>(D(x));                             \
        else                                                      \
            return clamped<D>(x);                                 \
    }
TO_WHOLE(cvt_rni, rint)
TO_WHOLE(cvt_rzi, trunc)
TO_WHOLE(cvt_rmi, floor)
TO_WHOLE(cvt_rpi, ceil)

// New content of memory, of the old one and the operands.
BINARY(atom_add, a + b)
BINARY(atom_min, b < a ? b : a)
BINARY(atom_max, a < b ? b : a)
BINARY(atom_or, a | b)
BINARY(atom_xor, a ^ b)
template <class T, bool, class A, class B, class C>
T atom_cas(A old, B expected, C wanted) {
    return old == in<T>(expected) ? in<T>(wanted) : old;
}

// How a thread comes to a byte. Volatile loads and atomics of several threads are what code means to do.
enum Access { LOAD, VOLATILE_LOAD, STORE, ATOMIC };

struct Fault {
    const char* what;
    u64 address;
    u32 bytes;
};
// Who has come to the bytes of an array in this launch: threads are counted from 1, SEVERAL stands for more than one.
constexpr u32 NOBODY = 0, SEVERAL = ~0u;
struct Array {
    u64 begin, end;
    std::vector<u32> loaded, stored, touched;  // touched: by atomics
};
std::vector<Array> arrays;
u32 thread;

bool by_others(u32 who) { return who != NOBODY && who != thread; }
void note(u32& who) { who = by_others(who) ? SEVERAL : thread; }

// What the warps of a launch do: instructions they issue, lines of 128 bytes that their accesses ask for, one after another;
// and the sectors of 32 bytes that are read or written, each counted once.
struct Work {
    u64 instructions, lines, sectors;
};
constexpr u32 WARP = 32, LINE_BYTES = 128, SECTOR_BYTES = 32;
// The access that a thread makes at a place of the program for the turn-th time: those of a warp are one.
struct Visit {
    u32 place, turn;
    u64 line;
    bool operator<(const Visit& o) const { return std::tie(place, turn, line) < std::tie(o.place, o.turn, o.line); }
    bool operator==(const Visit& o) const { return std::tie(place, turn, line) == std::tie(o.place, o.turn, o.line); }
};
Work work;
std::vector<Visit> visits;
std::vector<u32> turns;  // of each place, in this thread
u32 issued;              // instructions of this thread, but for those that a GPU does without

void note_visit(u32 place, u64 address) {
    if (turns.size() <= place) turns.resize(place + 1);
    visits.push_back({place, turns[place]++, address / LINE_BYTES});
}
void end_warp(u32 most_issued) {
    work.instructions += most_issued;
    std::sort(visits.begin(), visits.end());
    work.lines += std::unique(visits.begin(), visits.end()) - visits.begin();
    visits.clear();
}
void count_sectors() {
    for (const Array& array : arrays)
        for (const std::vector<u32>* marks : {&array.loaded, &array.stored}) {
            u64 last = 0;  // no array begins there
            for (u64 i = 0; i < marks->size(); ++i) {
                const u64 sector = (array.begin + i) / SECTOR_BYTES;
                if ((*marks)[i] != NOBODY && sector != last) ++work.sectors, last = sector;
            }
        }
}

// Where an access of so many bytes goes: aligned to them, within one array, and such that the order of threads, which
// nobody knows, cannot be seen.
u8* at(u32 place, u64 address, u32 bytes, Access access) {
    if (address % bytes) throw Fault{"misaligned", address, bytes};
    note_visit(place, address);
    for (Array& array : arrays) {
        if (address < array.begin || address + bytes > array.end) continue;
        for (u64 i = address - array.begin; i < address - array.begin + bytes; ++i) {
            const bool is_plain = access == LOAD || access == STORE;
            if (by_others(array.stored[i]) || (is_plain && by_others(array.touched[i])) ||
                (access >= STORE && by_others(array.loaded[i])))
                throw Fault{"a race with another thread", address, bytes};
            if (access == LOAD) note(array.loaded[i]);
            if (access == STORE) note(array.stored[i]);
            if (access == ATOMIC) note(array.touched[i]);
        }
        return (u8*)address;
    }
    throw Fault{"outside of all arrays", address, bytes};
}

using Body = void (*)(const u8* parameters, Dim ntid, Dim nctaid, Dim ctaid, Dim tid);

// Run all threads of all blocks; returns what went wrong, or null.
const char* run(Body body, const u8* parameters, Dim grid, Dim block, const u64* ranges, u32 count, Work* done) {
    static char message[200];
    arrays.clear();
    visits.clear();
    work = {};
    u32 most_issued = 0, in_warp = 0;
    const auto close_warp = [&] {
        end_warp(most_issued);
        most_issued = in_warp = 0;
    };
    for (u32 i = 0; i < count; ++i) {
        const std::vector<u32> nobody(ranges[2 * i + 1] - ranges[2 * i], NOBODY);
        arrays.push_back({ranges[2 * i], ranges[2 * i + 1], nobody, nobody, nobody});
    }
    thread = NOBODY;
    Dim b, t;
    try {
        for (b.z = 0; b.z < grid.z; ++b.z)
            for (b.y = 0; b.y < grid.y; ++b.y)
                for (b.x = 0; b.x < grid.x; ++b.x) {
                    for (t.z = 0; t.z < block.z; ++t.z)
                        for (t.y = 0; t.y < block.y; ++t.y)
                            for (t.x = 0; t.x < block.x; ++t.x) {
                                ++thread;
                                issued = 0;
                                turns.assign(turns.size(), 0);
                                body(parameters, block, grid, b, t);
                                most_issued = std::max(most_issued, issued);
                                if (++in_warp == WARP) close_warp();
                            }
                    close_warp();
                }
    } catch (const Fault& fault) {
        snprintf(message, sizeof message,
                 "an access of %u bytes at %#llx is %s: thread (%u, %u, %u) of block (%u, %u, %u)", fault.bytes,
                 (unsigned long long)fault.address, fault.what, t.x, t.y, t.z, b.x, b.y, b.z);
        return message;
    }
    count_sectors();
    *done = work;
    return nullptr;
}

}  // namespace
