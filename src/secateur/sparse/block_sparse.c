/* A block-sparse matrix times a dense one, on one thread, single precision:

       Y[out, n] = W[out, in] X[in, n] + bias[out]

   W is kept as blocks of R x C numbers, block row by block row, each block stored column by column (C x R), so that the
   weights which meet one input lie side by side. There are two ways through, and in both sums stay in registers from the
   first block of a row to the last:

   - in place: where a column of X lies together and so does one of Y (a linear layer's examples), vectors go along the
     rows of a block and meet one input at a time of several columns; nothing is copied;
   - by panels: else inputs are packed into panels of as many columns as three vectors hold, and vectors go along those.

   The widest vectors of the processor are found when the program runs. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const int32_t *start;  /* of each block row, in blocks; one more at the end */
    const int32_t *column; /* of each block, in blocks */
    const float *values;   /* [blocks, C, R] */
    const float *bias;     /* [out] or NULL */
    int64_t R, C;
} Matrix;

#define VECTORS 3
#define PANELS 4 /* that share one reading of W; they stay in the second-level cache */
#define LINE 16  /* floats in a cache line */
#define CHUNK 192 /* columns that are copied side by side at a time; they stay in the second-level cache */
#define FEW 4    /* columns below which they are done one by one */

/* In place: V vectors of rows, N columns. */
#define IN_PLACE(NAME, TARGET, LANES, V, N)                                                                            \
    TARGET static void NAME##_place_##V##_##N(const Matrix *w, int64_t block_row, int64_t row, const float *x,         \
                                              int64_t x_n, float *y, int64_t y_n) {                                    \
        NAME##_vector sum[N][V];                                                                                       \
        for (int v = 0; v < V; v++) {                                                                                  \
            const float *bias = w->bias + block_row * w->R + row + v * LANES;                                          \
            const NAME##_vector first = w->bias ? *(const NAME##_vector *)bias : (NAME##_vector){0};                   \
            for (int j = 0; j < N; j++)                                                                                \
                sum[j][v] = first;                                                                                     \
        }                                                                                                              \
        for (int j = 0; j < N; j++) /* where sums will go, fetched meanwhile */                                        \
            for (int v = 0; v < V; v++)                                                                                \
                __builtin_prefetch(y + j * y_n + v * LANES, 1);                                                        \
        const float *weight = w->values + (w->start[block_row] * w->C) * w->R + row;                                   \
        for (int32_t b = w->start[block_row]; b < w->start[block_row + 1]; b++) {                                      \
            const float *in = x + w->column[b] * w->C;                                                                 \
            for (int64_t c = 0; c < w->C; c++, weight += w->R, in++) {                                                 \
                NAME##_vector by[V];                                                                                   \
                for (int v = 0; v < V; v++)                                                                            \
                    by[v] = *(const NAME##_vector *)(weight + v * LANES);                                              \
                for (int j = 0; j < N; j++)                                                                            \
                    for (int v = 0; v < V; v++)                                                                        \
                        sum[j][v] += by[v] * in[j * x_n];                                                              \
            }                                                                                                          \
        }                                                                                                              \
        for (int j = 0; j < N; j++)                                                                                    \
            for (int v = 0; v < V; v++)                                                                                \
                *(NAME##_vector *)(y + j * y_n + v * LANES) = sum[j][v];                                               \
    }

/* LANES: floats in a vector. ROWS of W, or COLUMNS of X, at a time: as many as registers allow. */
#define KERNELS(NAME, TARGET, LANES, ROWS, COLUMNS, FEWER)                                                                           \
    typedef float NAME##_vector __attribute__((vector_size(4 * LANES), aligned(4)));                                   \
                                                                                                                       \
    TARGET static void NAME##_tile(const Matrix *w, int64_t block_row, int64_t row, const float *panel,                \
                                   float *sums) {                                                                      \
        NAME##_vector sum[ROWS][VECTORS];                                                                              \
        for (int i = 0; i < ROWS; i++)                                                                                 \
            for (int v = 0; v < VECTORS; v++)                                                                          \
                sum[i][v] = (NAME##_vector){0};                                                                        \
        const float *weight = w->values + (w->start[block_row] * w->C) * w->R + row;                                   \
        for (int32_t b = w->start[block_row]; b < w->start[block_row + 1]; b++) {                                      \
            const float *x = panel + w->column[b] * w->C * (VECTORS * LANES);                                          \
            for (int64_t c = 0; c < w->C; c++, weight += w->R, x += VECTORS * LANES) {                                 \
                NAME##_vector in[VECTORS];                                                                             \
                for (int v = 0; v < VECTORS; v++)                                                                      \
                    in[v] = *(const NAME##_vector *)(x + v * LANES);                                                   \
                for (int i = 0; i < ROWS; i++)                                                                         \
                    for (int v = 0; v < VECTORS; v++)                                                                  \
                        sum[i][v] += weight[i] * in[v];                                                                \
            }                                                                                                          \
        }                                                                                                              \
        for (int i = 0; i < ROWS; i++)                                                                                 \
            for (int v = 0; v < VECTORS; v++)                                                                          \
                *(NAME##_vector *)(sums + (i * VECTORS + v) * LANES) = sum[i][v];                                      \
    }                                                                                                                  \
                                                                                                                       \
    /* One column: the rows of a block are the vector. */                                                              \
    TARGET static void NAME##_column(const Matrix *w, int64_t block_row, const float *x, float *sums) {                \
        int64_t row = 0;                                                                                               \
        for (; row + 2 * LANES <= w->R; row += 2 * LANES) {                                                            \
            NAME##_vector first = {0}, second = {0};                                                                   \
            const float *weight = w->values + (w->start[block_row] * w->C) * w->R + row;                               \
            for (int32_t b = w->start[block_row]; b < w->start[block_row + 1]; b++) {                                  \
                const float *in = x + w->column[b] * w->C;                                                             \
                for (int64_t c = 0; c < w->C; c++, weight += w->R) {                                                   \
                    first += *(const NAME##_vector *)weight * in[c];                                                   \
                    second += *(const NAME##_vector *)(weight + LANES) * in[c];                                        \
                }                                                                                                      \
            }                                                                                                          \
            *(NAME##_vector *)(sums + row) = first;                                                                    \
            *(NAME##_vector *)(sums + row + LANES) = second;                                                           \
        }                                                                                                              \
        for (; row < w->R; row++) {                                                                                    \
            float sum = 0;                                                                                             \
            const float *weight = w->values + (w->start[block_row] * w->C) * w->R + row;                               \
            for (int32_t b = w->start[block_row]; b < w->start[block_row + 1]; b++)                                    \
                for (int64_t c = 0; c < w->C; c++, weight += w->R)                                                     \
                    sum += *weight * x[w->column[b] * w->C + c];                                                       \
            sums[row] = sum;                                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    IN_PLACE(NAME, TARGET, LANES, 2, COLUMNS)                                                                          \
    IN_PLACE(NAME, TARGET, LANES, 2, FEWER)                                                                            \
    IN_PLACE(NAME, TARGET, LANES, 2, 1)                                                                                \
    IN_PLACE(NAME, TARGET, LANES, 1, COLUMNS)                                                                          \
    IN_PLACE(NAME, TARGET, LANES, 1, FEWER)                                                                            \
    IN_PLACE(NAME, TARGET, LANES, 1, 1)                                                                                \
                                                                                                                       \
    /* A block row for n columns: element (k, j) of X at x[k + j * x_n], of Y at y[i + j * y_n]. */                    \
    TARGET static void NAME##_place(const Matrix *w, int64_t block_row, int64_t n, const float *x, int64_t x_n,        \
                                    float *y, int64_t y_n) {                                                           \
        for (int64_t row = 0; row < w->R;) {                                                                           \
            const int two = row + 2 * LANES <= w->R;                                                                   \
            int64_t j = 0;                                                                                             \
            for (; j + COLUMNS <= n; j += COLUMNS)                                                                     \
                (two ? NAME##_place_2_##COLUMNS : NAME##_place_1_##COLUMNS)(w, block_row, row, x + j * x_n, x_n,       \
                                                                            y + row + j * y_n, y_n);                   \
            for (; j + FEWER <= n; j += FEWER)                                                                         \
                (two ? NAME##_place_2_##FEWER : NAME##_place_1_##FEWER)(w, block_row, row, x + j * x_n, x_n,           \
                                                                        y + row + j * y_n, y_n);                       \
            for (; j < n; j++)                                                                                         \
                (two ? NAME##_place_2_1 : NAME##_place_1_1)(w, block_row, row, x + j * x_n, x_n, y + row + j * y_n,    \
                                                            y_n);                                                      \
            row += two ? 2 * LANES : LANES;                                                                            \
        }                                                                                                              \
    }

#if defined(__x86_64__)
KERNELS(wide, __attribute__((target("avx512f,prefer-vector-width=512"))), 16, 8, 12, 4)
KERNELS(middle, __attribute__((target("avx2,fma"))), 8, 4, 6, 2)
#endif
KERNELS(plain, , 4, 4, 6, 2)

typedef struct {
    int lanes, rows;
    void (*tile)(const Matrix *, int64_t, int64_t, const float *, float *);
    void (*column)(const Matrix *, int64_t, const float *, float *);
    void (*place)(const Matrix *, int64_t, int64_t, const float *, int64_t, float *, int64_t);
} Kernel;

/* 0: the widest there is; or 4, 8, 16 lanes. */
static Kernel kernel_of(int lanes) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if ((lanes == 0 || lanes == 16) && __builtin_cpu_supports("avx512f"))
        return (Kernel){16, 8, wide_tile, wide_column, wide_place};
    if ((lanes == 0 || lanes == 8) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (Kernel){8, 4, middle_tile, middle_column, middle_place};
#endif
    return (Kernel){4, 4, plain_tile, plain_column, plain_place};
}

int secateur_lanes(int lanes) { return kernel_of(lanes).lanes; }

/* Rows that a tile of several rows does not divide: one by one. */
static void single(const Matrix *w, int64_t block_row, int64_t row, const float *panel, int width, float *sums) {
    memset(sums, 0, sizeof(float) * width);
    const float *weight = w->values + (w->start[block_row] * w->C) * w->R + row;
    for (int32_t b = w->start[block_row]; b < w->start[block_row + 1]; b++) {
        const float *x = panel + w->column[b] * w->C * width;
        for (int64_t c = 0; c < w->C; c++, weight += w->R, x += width)
            for (int j = 0; j < width; j++)
                sums[j] += *weight * x[j];
    }
}

/* `columns` columns of X as rows of `width`, zeros after them and after the last of `in` inputs. */
static void pack(const float *x, int64_t x_in, int64_t x_n, int64_t in, int64_t padded, int64_t columns, int width,
                 float *panel) {
    if (columns < width)
        memset(panel, 0, sizeof(float) * padded * width);
    else
        memset(panel + in * width, 0, sizeof(float) * (padded - in) * width);
    if (x_n == 1) {
        for (int64_t k = 0; k < in; k++)
            memcpy(panel + k * width, x + k * x_in, sizeof(float) * columns);
        return;
    }
    for (int64_t from = 0; from < in; from += LINE) { /* what was read of a line is used up before the next */
        const int64_t to = from + LINE < in ? from + LINE : in;
        for (int64_t j = 0; j < columns; j++)
            for (int64_t k = from; k < to; k++)
                panel[k * width + j] = x[k * x_in + j * x_n];
    }
}

/* The sums of `rows` rows [rows, width] to Y, along whichever side of Y lies together. */
static void unpack(const float *sums, const float *bias, int64_t rows, int64_t columns, int width, float *y,
                   int64_t y_out, int64_t y_n) {
    if (y_out == 1)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t i = 0; i < rows; i++)
                y[i + j * y_n] = sums[i * width + j] + (bias ? bias[i] : 0);
    else
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                y[i * y_out + j * y_n] = sums[i * width + j] + (bias ? bias[i] : 0);
}

/* Columns of X, each together and `apart` from the next, zeros after the last of `in` inputs. */
static void side_by_side(const float *x, int64_t x_in, int64_t x_n, int64_t in, int64_t padded, int64_t columns,
                         int64_t apart, float *buffer) {
    for (int64_t j = 0; j < columns; j++) {
        if (x_in == 1)
            memcpy(buffer + j * apart, x + j * x_n, sizeof(float) * in);
        else
            for (int64_t k = 0; k < in; k++)
                buffer[j * apart + k] = x[k * x_in + j * x_n];
        memset(buffer + j * apart + in, 0, sizeof(float) * (padded - in));
    }
}

typedef struct {
    int64_t first, last, out, in, n, x_in, x_n, y_out, y_n;
} Sizes;

static void few_columns(const Matrix *w, const Kernel *kernel, const Sizes *at, const float *x, float *y,
                        float *buffer, int64_t padded) {
    float *sums = buffer + padded;
    memset(buffer, 0, sizeof(float) * padded);
    for (int64_t j = 0; j < at->n; j++) {
        for (int64_t k = 0; k < at->in; k++)
            buffer[k] = x[k * at->x_in + j * at->x_n];
        for (int64_t row = at->first; row < at->last; row++) {
            kernel->column(w, row, buffer, sums);
            for (int64_t i = 0; i < w->R && row * w->R + i < at->out; i++)
                y[(row * w->R + i) * at->y_out + j * at->y_n] = sums[i] + (w->bias ? w->bias[row * w->R + i] : 0);
        }
    }
}

static void many_columns(const Matrix *w, const Kernel *kernel, const Sizes *at, const float *x, float *y,
                         float *buffer, int64_t padded, int width) {
    float *sums = buffer + padded * width * PANELS;
    for (int64_t from = 0; from < at->n; from += width * PANELS) {
        const int64_t columns = at->n - from < width * PANELS ? at->n - from : width * PANELS;
        for (int64_t p = 0; p * width < columns; p++) {
            const int64_t filled = columns - p * width < width ? columns - p * width : width;
            pack(x + (from + p * width) * at->x_n, at->x_in, at->x_n, at->in, padded, filled, width,
                 buffer + p * padded * width);
        }
        for (int64_t row = at->first; row < at->last; row++) {
            const int64_t rows = at->out - row * w->R < w->R ? at->out - row * w->R : w->R;
            for (int64_t p = 0; p * width < columns; p++) {
                const float *panel = buffer + p * padded * width;
                const int64_t filled = columns - p * width < width ? columns - p * width : width;
                int64_t i = 0;
                for (; i + kernel->rows <= w->R; i += kernel->rows)
                    kernel->tile(w, row, i, panel, sums + i * width);
                for (; i < w->R; i++)
                    single(w, row, i, panel, width, sums + i * width);
                unpack(sums, w->bias ? w->bias + row * w->R : NULL, rows, filled, width,
                       y + row * w->R * at->y_out + (from + p * width) * at->y_n, at->y_out, at->y_n);
            }
        }
    }
}

/* Memory of this thread for so many floats; kept for the next call, as fresh pages take longer than small products. */
static float *scratch(int64_t floats) {
    static __thread float *kept;
    static __thread int64_t size;
    if (floats > size) {
        free(kept);
        kept = NULL;
        size = posix_memalign((void **)&kept, 64, sizeof(float) * floats) ? 0 : floats;
    }
    return size ? kept : NULL;
}

/* Element (k, j) of X lies at x[k * x_in + j * x_n], of Y at y[i * y_out + j * y_n]. Does block rows from `first` to
   before `last`. R need not divide `out`, nor C `in`: what is over is zeros. `lanes` as in kernel_of. Returns 0, or 1
   where there is no memory. */
int secateur_block_sparse(const int32_t *start, const int32_t *column, const float *values, const float *bias, int64_t R,
                          int64_t C, int64_t first, int64_t last, int64_t out, int64_t in, int64_t n, const float *x,
                          int64_t x_in, int64_t x_n, float *y, int64_t y_out, int64_t y_n, int lanes) {
    const Matrix w = {start, column, values, bias, R, C};
    const Sizes at = {first, last, out, in, n, x_in, x_n, y_out, y_n};
    const Kernel kernel = kernel_of(lanes);
    const int width = VECTORS * kernel.lanes;
    const int64_t padded = (in + C - 1) / C * C;
    if (y_out == 1 && R % kernel.lanes == 0 && out % R == 0) {
        const int64_t apart = padded + LINE, most = n < CHUNK ? n : CHUNK;
        float *buffer = scratch(apart * most);
        if (!buffer)
            return 1;
        for (int64_t from = 0; from < n; from += most) {
            const int64_t columns = n - from < most ? n - from : most;
            side_by_side(x + from * x_n, x_in, x_n, in, padded, columns, apart, buffer);
            for (int64_t row = first; row < last; row++)
                kernel.place(&w, row, columns, buffer, apart, y + row * R + from * y_n, y_n);
        }
        return 0;
    }
    float *buffer = scratch(n < FEW ? padded + R : (padded * PANELS + R) * width);
    if (!buffer)
        return 1;
    if (n < FEW)
        few_columns(&w, &kernel, &at, x, y, buffer, padded);
    else
        many_columns(&w, &kernel, &at, x, y, buffer, padded, width);
    return 0;
}
