// One Atlas A2 vector core (dav-c220-vec) for kernels that bishengir-compile made, on a CPU.
//
// It implements the hardware intrinsics that meta_op.aiv.c220.bc calls, so that the vendor's own device
// library runs above it. It counts instructions and bytes, estimates time with one clock for each pipe,
// and reports memory errors and missing synchronization. Not cycle accurate: see COSTS.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef int64_t i64;
typedef uint16_t bf16;
#define UB_BYTES 196608
#define BLOCKS (UB_BYTES / 32)

enum { S, V, M, MTE1, MTE2, MTE3, PIPES };
_Alignas(1 << 18) uint8_t ub[UB_BYTES];
static u64 ctrl, mask_lo, mask_hi, pad, maxmin, va[8][8], block_idx, sub_block_idx;
static const u64 *cmpmask;

// ---- Report ----
typedef struct { char name[24]; u64 calls, repeats; double cycles; } Row;
static Row rows[128];
static int row_count;
static u64 bytes_in, bytes_out, faults;
static double now[PIPES], busy[PIPES], makespan;
static double flag_time[PIPES][PIPES][8];
// Happens before: seen[p][q] is the last instruction of pipe q that pipe p knows to be done.
static u64 seq[PIPES], seen[PIPES][PIPES], flag_seen[PIPES][PIPES][8][PIPES];
static int flag_count[PIPES][PIPES][8];
static struct { u64 writer; u64 reader[PIPES]; uint8_t pipe; } block[BLOCKS];
static const char *const PIPE[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3"};

static void fault(const char *what, const char *name, i64 a, i64 b) {
    if (faults++ < 8) fprintf(stderr, "FAULT %s in %s (%lld, %lld)\n", what, name, (long long)a, (long long)b);
}

// COSTS: msopmodeling 1.0.9 (MulanPSL-2.0), vec_cycle_910B1.csv and bandwidth_910B1.csv (48 cores).
static double cycles_of(const char *name, u64 repeats) {
    static const struct { const char *prefix; double each, head; } table[] = {
        {"VDIV", 4, 38}, {"VSQRT", 2, 39}, {"VEXP", 2, 37}, {"VCMPV", 2, 36}, {"VSEL", 2, 27}, {"VADDS", 1, 31},
        {"VMULS", 1, 33}, {"VMAXS", 1, 30}, {"VMINS", 1, 30}, {"VCONV", 1, 31}, {"MOVEV", 1, 24}, {"VNOT", 1, 30},
        {"VABS", 1, 30}, {"VC", 1, 36}, {"VNCHW", 1, 29}, {"MOV", 1, 30}, {"VBRCB", 1, 29}, {"V", 2, 32}};
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++)
        if (!strncmp(name, table[i].prefix, strlen(table[i].prefix))) return table[i].each * repeats + table[i].head;
    return 1;
}

// The scalar unit issues every instruction, in order: what it waited for is done.
static void after_scalar(int pipe) {
    if (now[pipe] < now[S]) now[pipe] = now[S];
    for (int q = 0; q < PIPES; q++) if (seen[pipe][q] < seen[S][q]) seen[pipe][q] = seen[S][q];
}

static void issue(const char *name, int pipe, u64 repeats, double cycles) {
    int i = 0;
    while (i < row_count && strcmp(rows[i].name, name)) i++;
    if (i == row_count) strncpy(rows[row_count++].name, name, 23);
    rows[i].calls++, rows[i].repeats += repeats, rows[i].cycles += cycles;
    after_scalar(pipe);
    now[pipe] += cycles, busy[pipe] += cycles;
    seen[pipe][pipe] = seq[pipe];                // a pipe runs its instructions in order
    seq[pipe]++;
}

static i64 ub_offset(const void *p, u64 bytes, const char *name) {
    i64 at = (const uint8_t *)p - ub;
    if (at < 0 || at + (i64)bytes > UB_BYTES) { fault("outside of UB", name, at, bytes); return -1; }
    return at;
}

static void touch(const void *p, u64 bytes, int pipe, int writes, const char *name) {
    i64 at = ub_offset(p, bytes, name);
    if (at < 0) exit(3);
    for (i64 b = at / 32; b <= (at + (i64)bytes - 1) / 32; b++) {
        int w = block[b].pipe;
        if (w != pipe && block[b].writer > seen[pipe][w]) fault("no wait for the writer", name, b * 32, w);
        if (writes) {
            for (int q = 0; q < PIPES; q++)
                if (q != pipe && block[b].reader[q] > seen[pipe][q]) fault("no wait for a reader", name, b * 32, q);
            block[b].writer = seq[pipe], block[b].pipe = pipe;
        } else block[b].reader[pipe] = seq[pipe];
    }
}

void set_flag(u64 from, u64 to, u64 event) __asm__("hivm.SET.FLAG.IMM");
void set_flag(u64 from, u64 to, u64 event) {
    if (flag_count[from][to][event]++) fault("flag set twice", PIPE[from], to, event);
    after_scalar(from);
    seen[from][from] = seq[from];
    flag_time[from][to][event] = now[from];
    memcpy(flag_seen[from][to][event], seen[from], sizeof seen[from]);
}
void wait_flag(u64 from, u64 to, u64 event) __asm__("hivm.WAIT.FLAG.IMM");
void wait_flag(u64 from, u64 to, u64 event) {
    if (--flag_count[from][to][event]) { fault("deadlock: wait without a set", PIPE[from], to, event); exit(4); }
    if (now[to] < flag_time[from][to][event]) now[to] = flag_time[from][to][event];
    for (int q = 0; q < PIPES; q++)
        if (seen[to][q] < flag_seen[from][to][event][q]) seen[to][q] = flag_seen[from][to][event][q];
}
void barrier(u64 pipe) __asm__("hivm.BARRIER");
void barrier(u64 pipe) {
    if (pipe < PIPES) return;
    double latest = 0;
    for (int p = 0; p < PIPES; p++) if (latest < now[p]) latest = now[p];
    for (int p = 0; p < PIPES; p++) {
        now[p] = latest;
        for (int q = 0; q < PIPES; q++) seen[p][q] = seq[q];
    }
}
i64 get_block_idx(void) { return block_idx; }
i64 get_sub_block_idx(void) { return sub_block_idx; }

// ---- Registers ----
u64 get_ctrl(void) __asm__("hivm.GET.CTRL");
u64 get_ctrl(void) { return ctrl; }
void set_ctrl(u64 v) __asm__("hivm.SET.CTRL");
void set_ctrl(u64 v) { ctrl = v; }
u64 sbitset0(u64 v, u64 bit) __asm__("hivm.SBITSET0");
u64 sbitset0(u64 v, u64 bit) { return v & ~(1ull << bit); }
u64 sbitset1(u64 v, u64 bit) __asm__("hivm.SBITSET1");
u64 sbitset1(u64 v, u64 bit) { return v | 1ull << bit; }
void movemask(u64 high, u64 v) __asm__("hivm.MOVEMASK");
void movemask(u64 high, u64 v) { if (high) mask_hi = v; else mask_lo = v; }
void set_cmpmask(const void *p) __asm__("hivm.SET.CMPMASK");
void set_cmpmask(const void *p) { cmpmask = p; }
void set_pad(u64 v) __asm__("hivm.SET.MOV.PAD.VAL");
void set_pad(u64 v) { pad = v; }
u64 get_maxmin(void) __asm__("hivm.GET.MAX.MIN.CNT");
u64 get_maxmin(void) { return maxmin; }
void moveva(u64 reg, u64 at, u64 a, u64 b) __asm__("hivm.MOVEVA");
void moveva(u64 reg, u64 at, u64 a, u64 b) { va[reg][at] = a, va[reg][at + 1] = b; }

// ---- Vector instructions ----
static u64 repeats_of(u64 config, u64 per_repeat) {
    return ctrl >> 56 & 1 ? (mask_lo + per_repeat - 1) / per_repeat : config >> 56;
}
static int active(u64 r, u64 i, u64 per_repeat) {
    if (ctrl >> 56 & 1) return r * per_repeat + i < mask_lo;
    return i < 64 ? mask_lo >> i & 1 : mask_hi >> (i - 64) & 1;
}
static float wide(bf16 v) { uint32_t b = (uint32_t)v << 16; float f; memcpy(&f, &b, 4); return f; }
static bf16 narrow(float f) {  // round half to even
    uint32_t b; memcpy(&b, &f, 4);
    return (b & 0x7fffffff) > 0x7f800000 ? b >> 16 | 64 : (b + 0x7fff + (b >> 16 & 1)) >> 16;
}
#define FIELD(at, bits) (config >> (at) & ((1ull << (bits)) - 1))
#define LANE(p, T, rs, bs) ((p) + (r * (rs) + i / (32 / sizeof(T)) * (bs)) * (32 / sizeof(T)) + i % (32 / sizeof(T)))
#define MAX2(a, b) ((a) > (b) ? (a) : (b))
#define EACH(name, lanes, ...)                                                                         \
    u64 per = (lanes), n = repeats_of(config, per);                                                    \
    issue(name, V, n, cycles_of(name, n));                                                             \
    for (u64 r = 0; r < n; r++)                                                                        \
        for (u64 i = 0; i < per; i++)                                                                  \
            if (active(r, i, per)) __VA_ARGS__
#define BINARY(name, fn, T, expression)                                                                \
    void fn(T *, T *, T *, u64) __asm__("hivm." name);                                                 \
    void fn(T *dst, T *src0, T *src1, u64 config) {                                                    \
        EACH(name, 256 / sizeof(T), {                                                                  \
            T *d = LANE(dst, T, FIELD(24, 8), FIELD(0, 8)), *p = LANE(src0, T, FIELD(32, 8), FIELD(8, 8)), \
              *q = LANE(src1, T, FIELD(40, 8), FIELD(16, 8));                                          \
            touch(p, sizeof(T), V, 0, name), touch(q, sizeof(T), V, 0, name), touch(d, sizeof(T), V, 1, name); \
            T a = *p, b = *q; *d = (expression);                                                       \
        })                                                                                             \
    }
#define UNARY(name, fn, D, T, expression)                                                              \
    void fn(D *, T *, u64) __asm__("hivm." name);                                                      \
    void fn(D *dst, T *src, u64 config) {                                                              \
        EACH(name, 256 / MAX2(sizeof(D), sizeof(T)), {                                                 \
            D *d = LANE(dst, D, FIELD(32, 8), FIELD(0, 16)); T *p = LANE(src, T, FIELD(40, 8), FIELD(16, 16)); \
            touch(p, sizeof(T), V, 0, name), touch(d, sizeof(D), V, 1, name);                          \
            T a = *p; *d = (expression);                                                               \
        })                                                                                             \
    }
#define SCALAR(name, fn, T, expression)                                                                \
    void fn(T *, T *, T, u64) __asm__("hivm." name);                                                   \
    void fn(T *dst, T *src, T b, u64 config) {                                                         \
        EACH(name, 256 / sizeof(T), {                                                                  \
            T *d = LANE(dst, T, FIELD(32, 8), FIELD(0, 16)), *p = LANE(src, T, FIELD(40, 8), FIELD(16, 16)); \
            touch(p, sizeof(T), V, 0, name), touch(d, sizeof(T), V, 1, name);                          \
            T a = *p; *d = (expression);                                                               \
        })                                                                                             \
    }
BINARY("VADD.f32", vadd, float, a + b)
BINARY("VSUB.f32", vsub, float, a - b)
BINARY("VMUL.f32", vmul, float, a * b)
BINARY("VDIV.f32", vdiv, float, a / b)
BINARY("VMAX.f32", vmax, float, a > b || a != a ? a : b)
BINARY("VMIN.f32", vmin, float, a < b || a != a ? a : b)
BINARY("VADD.s32", vadd_s32, int32_t, (int32_t)((uint32_t)a + (uint32_t)b))
BINARY("VOR.s16", vor, uint16_t, a | b)
BINARY("VAND.s16", vand, uint16_t, a & b)
SCALAR("VADDS.f32", vadds, float, a + b)
SCALAR("VMULS.f32", vmuls, float, a * b)
SCALAR("VMAXS.f32", vmaxs, float, a > b || a != a ? a : b)
SCALAR("VMINS.f32", vmins, float, a < b || a != a ? a : b)
UNARY("VABS.f32", vabs_, float, float, fabsf(a))
UNARY("VEXP.f32", vexp, float, float, expf(a))
UNARY("VLN.f32", vln, float, float, logf(a))
UNARY("VSQRT.f32", vsqrt, float, float, sqrtf(a))
UNARY("VNOT.s16", vnot, uint16_t, uint16_t, ~a)
UNARY("VCONV.bf162f32.v220", vconv0, float, bf16, wide(a))
UNARY("VCONV.f322bf16r.v220", vconv1, bf16, float, narrow(a))
static int32_t to_s32(float f) { return f != f ? 0 : f >= 2147483648.f ? INT32_MAX : f < -2147483648.f ? INT32_MIN : (int32_t)f; }
UNARY("VCONV.f322s32r.v220", vconv2, int32_t, float, to_s32(nearbyintf(a)))
UNARY("VCONV.f322s32z.v220", vconv3, int32_t, float, to_s32(truncf(a)))
UNARY("VCONV.f322s32f.v220", vconv4, int32_t, float, to_s32(floorf(a)))
UNARY("VCONV.f322s32c.v220", vconv5, int32_t, float, to_s32(ceilf(a)))
UNARY("VCONV.f322s32a.v220", vconv6, int32_t, float, to_s32(roundf(a)))
UNARY("VCONV.f322f32r.v220", vconv7, float, float, nearbyintf(a))
UNARY("VCONV.s322f32r.v220", vconv8, float, int32_t, (float)a)
UNARY("VCONV.f162f32.v220", vconv9, float, _Float16, (float)a)
UNARY("VCONV.f322f16r.v220", vconv10, _Float16, float, (_Float16)a)
UNARY("VCONV.f322f16z.v220", vconv16, _Float16, float, (_Float16)a)
static int8_t to_s8(float f) { return f > 127 ? 127 : f < -128 ? -128 : (int8_t)f; }
UNARY("VCONV.f162s8r.v220", vconv11, int8_t, _Float16, to_s8(nearbyintf((float)a)))
UNARY("VCONV.f162s8z.v220", vconv12, int8_t, _Float16, to_s8(truncf((float)a)))
UNARY("VCONV.s82f16.v220", vconv13, _Float16, int8_t, (_Float16)a)

#define FILL(name, fn, T, A)                                                                           \
    void fn(T *, A, u64) __asm__("hivm." name);                                                        \
    void fn(T *dst, A value, u64 config) {                                                             \
        EACH(name, 256 / sizeof(T), {                                                                  \
            T *d = LANE(dst, T, FIELD(32, 8), FIELD(0, 16));                                           \
            touch(d, sizeof(T), V, 1, name); *d = (T)value;                                            \
        })                                                                                             \
    }
FILL("MOVEV.f32", movev_f32, float, float)
FILL("MOVEV.f16", movev_f16, _Float16, _Float16)
FILL("MOVEV.s16", movev_s16, uint16_t, u64)
FILL("MOVEV.u16", movev_u16, uint16_t, u64)
FILL("MOVEV.s32", movev_s32, uint32_t, u64)

#define COMPARE(name, fn, T, op)                                                                       \
    void fn(uint8_t *, T *, T *, u64) __asm__("hivm." name);                                           \
    void fn(uint8_t *dst, T *src0, T *src1, u64 config) {                                              \
        u64 per = 256 / sizeof(T), n = repeats_of(config, per);                                        \
        issue(name, V, n, cycles_of(name, n));                                                         \
        for (u64 r = 0; r < n; r++) {                                                                  \
            uint8_t bits[32] = {0};                                                                    \
            for (u64 i = 0; i < per; i++) {                                                            \
                T *p = LANE(src0, T, FIELD(32, 8), FIELD(8, 8)), *q = LANE(src1, T, FIELD(40, 8), FIELD(16, 8)); \
                touch(p, sizeof(T), V, 0, name), touch(q, sizeof(T), V, 0, name);                      \
                if (*p op *q) bits[i / 8] |= 1 << i % 8;                                               \
            }                                                                                          \
            touch(dst + r * per / 8, per / 8, V, 1, name);                                             \
            memcpy(dst + r * per / 8, bits, per / 8);                                                  \
        }                                                                                              \
    }
COMPARE("VCMPV.EQ.f32", vcmp_eq, float, ==)
COMPARE("VCMPV.LT.f32", vcmp_lt, float, <)
COMPARE("VCMPV.GT.f32", vcmp_gt, float, >)

#define SELECT(name, fn, T)                                                                            \
    void fn(T *, T *, T *, u64) __asm__("hivm." name ".1");                                            \
    void fn(T *dst, T *src0, T *src1, u64 config) {                                                    \
        if (FIELD(48, 2) != 2) { fault("mode", name, FIELD(48, 2), 0); exit(5); }                      \
        const uint8_t *bits = (const uint8_t *)*cmpmask;                                               \
        EACH(name, 256 / sizeof(T), {                                                                  \
            T *d = LANE(dst, T, FIELD(24, 8), FIELD(0, 8)), *p = LANE(src0, T, FIELD(32, 8), FIELD(8, 8)), \
              *q = LANE(src1, T, FIELD(40, 8), FIELD(16, 8));                                          \
            u64 at = r * per + i;                                                                      \
            touch(bits + at / 8, 1, V, 0, "a select's mask");                                          \
            touch(p, sizeof(T), V, 0, name), touch(q, sizeof(T), V, 0, name), touch(d, sizeof(T), V, 1, name); \
            *d = bits[at / 8] >> at % 8 & 1 ? *p : *q;                                                 \
        })                                                                                             \
    }
SELECT("VSEL.f32", vsel, float)
SELECT("VSEL.f16", vsel16, uint16_t)
// Fills a block of 32 bytes with each of eight numbers.
#define BROADCAST(name, fn, T)                                                                         \
    void fn(T *, T *, u64) __asm__("hivm." name);                                                      \
    void fn(T *dst, T *src, u64 config) {                                                              \
        u64 n = config >> 56, width = 32 / sizeof(T);                                                  \
        issue(name, V, n, cycles_of("VBRCB", n));                                                      \
        for (u64 r = 0; r < n; r++)                                                                    \
            for (u64 k = 0; k < 8; k++) {                                                              \
                T *d = dst + (r * FIELD(32, 8) + k * FIELD(0, 16)) * width, v = src[r * 8 + k];        \
                touch(src + r * 8 + k, sizeof(T), V, 0, name), touch(d, 32, V, 1, name);               \
                for (u64 j = 0; j < width; j++) d[j] = v;                                              \
            }                                                                                          \
    }
BROADCAST("VBRCB.b32", vbrcb, uint32_t)
BROADCAST("VBRCB.b16", vbrcb16, uint16_t)
// Keeps the lanes of a pattern side by side: 1 and 2 every second one, 3 to 6 every fourth, 7 all.
void vreduce2(uint16_t *, uint16_t *, uint16_t *, u64) __asm__("hivm.VREDUCEv2.b16");
void vreduce2(uint16_t *dst, uint16_t *src, uint16_t *unused, u64 config) {
    (void)unused;
    static const int every[] = {0, 2, 2, 4, 4, 4, 4, 1}, first[] = {0, 0, 1, 0, 1, 2, 3, 0};
    u64 n = FIELD(0, 8) | FIELD(56, 8) << 8, kind = FIELD(16, 8);
    u64 per = ctrl >> 56 & 1 ? mask_lo : 128;
    if (kind < 1 || kind > 7) { fault("pattern", "VREDUCEv2", kind, 0); exit(5); }
    issue("VREDUCEv2.b16", V, n * ((per + 127) / 128), cycles_of("V", n * ((per + 127) / 128)));
    for (u64 r = 0; r < n; r++)
        for (u64 i = first[kind]; i < per; i += every[kind]) {
            uint16_t *p = src + r * FIELD(24, 16) * 16 + i / 16 * FIELD(8, 8) * 16 + i % 16;
            touch(p, 2, V, 0, "VREDUCEv2"), touch(dst, 2, V, 1, "VREDUCEv2");
            *dst++ = *p;
        }
}
static float tree(float *v, int n) { return n == 1 ? v[0] : tree(v, n / 2) + tree(v + n / 2, n / 2); }
static void lanes(float *out, float *src, u64 config, u64 r, float absent, const char *name) {
    for (u64 i = 0; i < 64; i++) {
        float *p = LANE(src, float, FIELD(32, 16), FIELD(16, 16));
        out[i] = absent;
        if (active(r, i, 64)) touch(p, 4, V, 0, name), out[i] = *p;
    }
}
#define REDUCE(name, fn, absent, outs, ...)                                                            \
    void fn(float *, float *, u64, u64) __asm__("hivm." name);                                         \
    void fn(float *dst, float *src, u64 config, u64 order) {                                           \
        u64 n = repeats_of(config, 64);                                                                \
        issue(name, V, n, cycles_of(name, n));                                                         \
        for (u64 r = 0; r < n; r++) {                                                                  \
            float v[64]; lanes(v, src, config, r, absent, name);                                       \
            float *d = dst + r * FIELD(0, 16) * (outs);                                                \
            touch(d, 4 * (outs), V, 1, name); __VA_ARGS__                                                     \
        }                                                                                              \
    }
REDUCE("VCADD.f32.order", vcadd, 0, 1, *d = tree(v, 64);)
REDUCE("VCGADD.f32", vcgadd, 0, 8, for (int k = 0; k < 8; k++) d[k] = tree(v + 8 * k, 8);)
REDUCE("VCPADD.f32", vcpadd, 0, 32, for (int k = 0; k < 32; k++) d[k] = v[2 * k] + v[2 * k + 1];)
static void keep(float m) { uint32_t b; memcpy(&b, &m, 4); maxmin = b; }
REDUCE("VCMAX.f32.order.v220", vcmax, -INFINITY, 1,
       float m = v[0]; for (int k = 1; k < 64; k++) if (v[k] > m || v[k] != v[k]) m = v[k]; *d = m; keep(m);)

void vnchw(u64, u64, u64, u64, u64) __asm__("hivm.S.VNCHWCONV.b8");
void vnchw(u64 to, u64 from, u64 config, u64 to_high, u64 from_high) {
    u64 n = config >> 56;
    issue("VNCHWCONV.b8", V, n, cycles_of("VNCHW", n));
    for (u64 r = 0; r < n; r++) {
        uint8_t tile[16][16];
        for (int j = 0; j < 16; j++) {
            uint8_t *p = (uint8_t *)va[from + j / 8][j % 8] + r * FIELD(16, 16) * 32 + from_high * 16;
            touch(p, 16, V, 0, "VNCHWCONV"), memcpy(tile[j], p, 16);
        }
        for (int i = 0; i < 16; i++) {
            uint8_t *d = (uint8_t *)va[to + i / 8][i % 8] + r * FIELD(0, 16) * 32 + to_high * 16;
            touch(d, 16, V, 1, "VNCHWCONV");
            for (int j = 0; j < 16; j++) d[j] = tile[j][i];
        }
    }
}

// ---- Moves ----
void ub_to_ub(uint8_t *, uint8_t *, u64) __asm__("hivm.MOV.UB.TO.UB.v220");
void ub_to_ub(uint8_t *dst, uint8_t *src, u64 config) {
    u64 bursts = FIELD(4, 12), bytes = FIELD(16, 16) * 32;
    issue("MOV.UB.TO.UB", V, bursts * bytes / 256, 30 + bursts * bytes / 256.);
    for (u64 k = 0; k < bursts; k++, src += bytes + FIELD(32, 16) * 32, dst += bytes + FIELD(48, 16) * 32) {
        touch(src, bytes, V, 0, "MOV.UB.TO.UB"), touch(dst, bytes, V, 1, "MOV.UB.TO.UB");
        memmove(dst, src, bytes);
    }
}
// 1850 MHz; one core of 48 gets about 35 GB/s in from global memory and 40 out.
static double move_cycles(u64 bytes, double gigabytes) { return 500 + bytes / gigabytes * 1.85; }
static struct { const uint8_t *base; u64 bytes; } tensors[64];
static int tensor_count;
void core_tensor(const void *base, u64 bytes) { tensors[tensor_count].base = base, tensors[tensor_count++].bytes = bytes; }
static void inside(const uint8_t *p, u64 bytes, const char *name) {
    for (int i = 0; i < tensor_count; i++)
        if (p >= tensors[i].base && p + bytes <= tensors[i].base + tensors[i].bytes) return;
    fault("outside of every tensor", name, (i64)p, bytes);
    exit(6);
}
static void load(uint8_t *dst, const uint8_t *src, u64 config, u64 gaps, u64 size) {
    u64 bursts = FIELD(4, 12), bytes = FIELD(16, 32), left = FIELD(48, 6) * size, right = FIELD(54, 6) * size;
    u64 step = (left + bytes + right + 31) / 32 * 32;
    if ((dst - ub) % 32) fault("unaligned", "load", dst - ub, 0);
    issue("MOV.OUT.TO.UB", MTE2, bursts, move_cycles(bursts * bytes, 35));
    bytes_in += bursts * bytes;
    for (u64 k = 0; k < bursts; k++, src += bytes + (gaps & 0xffffffff), dst += step + (gaps >> 32) * 32) {
        touch(dst, step, MTE2, 1, "load"), inside(src, bytes, "load");
        memcpy(dst + left, src, bytes);
        for (u64 j = 0; j < left; j++) dst[j] = (uint8_t)(pad >> 8 * (j % size));
        for (u64 j = 0; j < right; j++) dst[left + bytes + j] = (uint8_t)(pad >> 8 * (j % size));
    }
}
static void store(uint8_t *dst, const uint8_t *src, u64 config, u64 gaps) {
    u64 bursts = FIELD(4, 12), bytes = FIELD(16, 32);
    if ((src - ub) % 32) fault("unaligned", "store", src - ub, 0);
    issue("MOV.UB.TO.OUT", MTE3, bursts, move_cycles(bursts * bytes, 40));
    bytes_out += bursts * bytes;
    for (u64 k = 0; k < bursts; k++) {
        touch(src, bytes, MTE3, 0, "store"), inside(dst, bytes, "store"), memcpy(dst, src, bytes);
        src += (bytes + 31) / 32 * 32 + (gaps & 0xffffffff) * 32, dst += bytes + (gaps >> 32);
    }
}
#define MOVES(b, size)                                                                                 \
    void load_##b(void *, void *, u64, u64) __asm__("hivm.MOV.OUT.TO.UB.ALIGN." #b ".V220");           \
    void load_##b(void *dst, void *src, u64 config, u64 gaps) { load(dst, src, config, gaps, size); }  \
    void store_##b(void *, void *, u64, u64) __asm__("hivm.MOV.UB.TO.OUT.ALIGN." #b ".V220");          \
    void store_##b(void *dst, void *src, u64 config, u64 gaps) { store(dst, src, config, gaps); }
MOVES(b8, 1)
MOVES(b16, 2)
MOVES(b32, 4)

// ---- Python calls these ----
static void core_end(void) {
    for (int p = 0; p < PIPES; p++) if (makespan < now[p]) makespan = now[p];
}
void core_begin(u64 index, int poison) {
    core_end();
    memset(now, 0, sizeof now), memset(flag_time, 0, sizeof flag_time);
    block_idx = index, ctrl = 0, mask_lo = mask_hi = ~0ull;
    if (poison) memset(ub, 0xff, sizeof ub);  // NaN in every float type
    memset(block, 0, sizeof block), memset(seq, 0, sizeof seq), memset(seen, 0, sizeof seen);
    for (int p = 0; p < PIPES; p++) seq[p] = 1;
}
u64 core_faults(void) {
    for (int a = 0; a < PIPES; a++) for (int b = 0; b < PIPES; b++) for (int e = 0; e < 8; e++)
        if (flag_count[a][b][e]) fault("flag left set", PIPE[a], b, e);
    return faults;
}
// What was counted: one instruction's name, calls and repeats for each index; 0 behind the last.
int core_row(int index, const char **name, u64 *calls, u64 *repeats) {
    if (index >= row_count) return 0;
    *name = rows[index].name, *calls = rows[index].calls, *repeats = rows[index].repeats;
    return 1;
}
u64 core_bytes(int out) { return out ? bytes_out : bytes_in; }
double core_cycles(void) { core_end(); return makespan; }
