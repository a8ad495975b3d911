/* Runs a plan of whet with static shapes, without Python: libc and pthreads only.
 *
 *     cc -O2 -o run_plan run_plan.c -lpthread
 *     ./run_plan model.plan INPUT... OUTPUT... [-t threads] [-n repetitions]
 *
 * Inputs and outputs are raw files (row-major, no header), in the plan's order. Exit: 0, or 2 and one line.
 * The file's layout is told in src/whet/plan/layout.py, the driver's in src/whet/abi.py. This checks header, bounds
 * and tables, but neither hash nor signature (whet.load does) nor whether the CPU has what the code needs:
 * run only plans that you trust, on the machine that they were built for. Little-endian hosts only.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- the file (whet/plan/layout.py) ---- */
struct header { char magic[8]; uint32_t format, n_sections; uint64_t body; uint32_t chunk, reserved; uint8_t root[32]; };
struct section { uint32_t id, reserved; uint64_t offset, bytes; };
struct runtime { uint64_t arena, scratch, threads, flags, create, destroy, run, n_inputs, n_outputs, reserved; };
struct io { uint64_t bytes; uint32_t item, reserved; };
struct step { uint32_t kind, expr; uint64_t entry, first_arg, n_args; int64_t tiles, grain; };
struct arg { uint32_t kind, index; int64_t value; uint32_t expr, reserved; };
enum { MANIFEST = 1, RUNTIME, IO, STEPS, ARGS, EXPRESSIONS, CODE, BLOBS, WEIGHTS, N_SECTIONS = 9 };
enum { INT, ARENA, WEIGHT, INPUT, OUTPUT };
enum { PAGE = 4096, FLAG_AMX = 1, FLAG_STATIC = 2 };
#define NONE 0xFFFFFFFFu
#define MAX_BYTES (1ull << 47)

/* ---- the driver (whet/abi.py) ---- */
enum { LINE = 128, RING = 4, POOL_BYTES = 256, WORKER_BYTES = 256, MAX_THREADS = 1024 };
struct bound_step { void *kernel; int64_t *args, tiles, grain; };
struct patch { int64_t slot, io, offset; };
struct run {
    struct bound_step *steps; int64_t n_steps; int64_t *slots, *io; struct patch *patches; int64_t n_patches;
    void *scratch, *times; int64_t parallel; void *lines; int64_t epoch, parts, stop; void *pool; int64_t threads;
};
typedef int64_t (*create_fn)(void *pool, void *imports, int64_t workers, int64_t flags, void *scratch, int64_t stride);
typedef int64_t (*destroy_fn)(void *pool);
typedef int64_t (*run_fn)(void *pool, struct run *run, int64_t first, int64_t count);

static void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("run_plan: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(2);
}

/* Zeroed memory at a page boundary. */
static void *pages(uint64_t bytes) {
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("no memory for %llu bytes", (unsigned long long)bytes);
    return p;
}

/* A section, mapped; offsets are multiples of 4096 only, so map from the page below. */
static uint8_t *map_section(int fd, struct section s, int prot) {
    if (!s.bytes) return pages(1);
    uint64_t skip = s.offset % (uint64_t)sysconf(_SC_PAGESIZE);
    uint8_t *p = mmap(NULL, s.bytes + skip, prot, MAP_PRIVATE, fd, (off_t)(s.offset - skip));
    if (p == MAP_FAILED) fail("a section of the plan cannot be mapped");
    return p + skip;
}

/* A table, as a copy. */
static void *read_table(int fd, struct section s, size_t record, uint64_t *count) {
    if (s.bytes % record) fail("a table of the plan is cut");
    void *p = malloc(s.bytes + 1);
    if (!p || pread(fd, p, s.bytes, (off_t)s.offset) != (ssize_t)s.bytes) fail("a table of the plan cannot be read");
    *count = s.bytes / record;
    return p;
}

static void read_file(const char *path, void *to, uint64_t bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) fail("%s cannot be opened", path);
    if (fread(to, 1, bytes, f) != bytes || fgetc(f) != EOF)
        fail("%s must have %llu bytes", path, (unsigned long long)bytes);
    fclose(f);
}

static void write_file(const char *path, const void *from, uint64_t bytes) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(from, 1, bytes, f) != bytes || fclose(f)) fail("%s cannot be written", path);
}

/* The header and the table of sections, checked: bounds, alignment, each section once, none overlapping. */
static void read_header(int fd, struct section sections[N_SECTIONS + 1]) {
    union { struct header h; uint8_t raw[PAGE]; } page;
    struct stat st;
    if (fstat(fd, &st) || pread(fd, page.raw, PAGE, 0) != PAGE || memcmp(page.h.magic, "WHETPLAN", 8))
        fail("this is not a plan");
    if (page.h.format != 1) fail("the plan has format %u, this program reads 1", page.h.format);
    if (page.h.n_sections != N_SECTIONS || page.h.body < PAGE || page.h.body > (uint64_t)st.st_size)
        fail("the plan is damaged or ends early");
    struct section table[N_SECTIONS];
    memcpy(table, page.raw + sizeof page.h, sizeof table);
    memset(sections, 0, sizeof(struct section) * (N_SECTIONS + 1));
    for (int i = 0; i < N_SECTIONS; i++) {
        struct section s = table[i];
        uint64_t align = s.id == CODE || s.id == WEIGHTS ? PAGE : 64;
        if (s.id < 1 || s.id > N_SECTIONS || sections[s.id].id || s.offset % align || s.offset < PAGE
            || s.offset > page.h.body || s.bytes > page.h.body - s.offset)
            fail("a section of the plan does not lie where it may");
        for (int j = 0; j < i; j++)
            if (s.offset < table[j].offset + table[j].bytes && table[j].offset < s.offset + s.bytes)
                fail("two sections of the plan overlap");
        sections[s.id] = s;
    }
}

int main(int argc, char **argv) {
    int64_t threads = 0, repetitions = 1;
    const char *files[1024];
    int n_files = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-t") && i + 1 < argc) threads = atoll(argv[++i]);
        else if (!strcmp(argv[i], "-n") && i + 1 < argc) repetitions = atoll(argv[++i]);
        else if (n_files < 1024) files[n_files++] = argv[i];
    }
    if (!n_files) fail("usage: run_plan model.plan INPUT... OUTPUT... [-t threads] [-n repetitions]");
    int fd = open(files[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail("%s cannot be opened", files[0]);

    struct section sections[N_SECTIONS + 1];
    read_header(fd, sections);
    uint64_t n_records, n_io, n_steps, n_args;
    struct runtime *rt = read_table(fd, sections[RUNTIME], sizeof *rt, &n_records);
    struct io *io = read_table(fd, sections[IO], sizeof *io, &n_io);
    struct step *steps = read_table(fd, sections[STEPS], sizeof *steps, &n_steps);
    struct arg *args = read_table(fd, sections[ARGS], sizeof *args, &n_args);

    uint64_t code_bytes = sections[CODE].bytes, weight_bytes = sections[WEIGHTS].bytes;
    if (n_records != 1) fail("the plan's runtime record is cut");
    if (!(rt->flags & FLAG_STATIC)) fail("the plan has dynamic shapes or host steps: run it by whet.load");
    if (rt->n_inputs > n_io || rt->n_inputs + rt->n_outputs != n_io) fail("the plan is malformed: inputs and outputs");
    if (rt->arena > MAX_BYTES || rt->scratch > MAX_BYTES || rt->threads < 1 || rt->threads > MAX_THREADS
        || rt->create >= code_bytes || rt->destroy >= code_bytes || rt->run >= code_bytes)
        fail("the plan is malformed: runtime record");
    if ((uint64_t)n_files != 1 + n_io)
        fail("the plan has %llu inputs and %llu outputs: give a file for each", (unsigned long long)rt->n_inputs,
             (unsigned long long)rt->n_outputs);
    if (threads < 1) threads = (int64_t)rt->threads;
    if (threads > (int64_t)rt->threads) fail("the plan was built for %llu threads", (unsigned long long)rt->threads);

    uint8_t *code = map_section(fd, sections[CODE], PROT_READ | PROT_EXEC);
    uint8_t *weights = map_section(fd, sections[WEIGHTS], PROT_READ);
    uint8_t *arena = pages(rt->arena);
    uint64_t stride = (rt->scratch + 63) / 64 * 64;
    int64_t workers = threads - 1;

    /* Bind: every argument becomes a 64-bit slot; those that hold inputs and outputs are patched by the driver. */
    int64_t *slots = pages(n_args * 8), *addresses = pages(n_io * 8);
    struct bound_step *bound = pages(n_steps * sizeof *bound);
    struct patch *patches = pages(n_args * sizeof *patches);
    int64_t n_patches = 0, parallel = 1;
    for (uint64_t i = 0; i < n_args; i++) {
        struct arg a = args[i];
        uint64_t at = (uint64_t)a.value;
        if (a.expr != NONE) fail("the plan is malformed: an expression in a static plan");
        if ((a.kind == ARENA && at > rt->arena) || (a.kind == WEIGHT && at > weight_bytes))
            fail("the plan is malformed: an address outside its memory");
        if (a.kind == INT) slots[i] = a.value;
        else if (a.kind == ARENA) slots[i] = (int64_t)(arena + at);
        else if (a.kind == WEIGHT) slots[i] = (int64_t)(weights + at);
        else if (a.kind == INPUT || a.kind == OUTPUT) {
            uint64_t k = a.index + (a.kind == OUTPUT ? rt->n_inputs : 0);
            if (k >= (a.kind == INPUT ? rt->n_inputs : n_io) || at > io[k].bytes)
                fail("the plan is malformed: an address outside an input or output");
            patches[n_patches++] = (struct patch){(int64_t)i, (int64_t)k, a.value};
        } else fail("the plan is malformed: an argument of an unknown kind");
    }
    for (uint64_t i = 0; i < n_steps; i++) {
        struct step s = steps[i];
        if (s.kind != 0 || s.expr != NONE || s.entry >= code_bytes || s.first_arg > n_args
            || s.n_args > n_args - s.first_arg || s.tiles < 0 || s.tiles > INT32_MAX || s.grain < 1)
            fail("the plan is malformed: step %llu", (unsigned long long)i);
        bound[i] = (struct bound_step){code + s.entry, slots + s.first_arg, s.tiles, s.grain};
        int64_t claims = (s.tiles - 1) / s.grain + 1;
        if (claims > parallel) parallel = claims;
    }

    /* Inputs and outputs. */
    for (uint64_t i = 0; i < n_io; i++) {
        if (io[i].bytes > MAX_BYTES) fail("the plan is malformed: a tensor's size");
        void *p = pages(io[i].bytes);
        if (i < rt->n_inputs) read_file(files[1 + i], p, io[i].bytes);
        addresses[i] = (int64_t)p;
    }

    /* The pool, and a run. */
    uint8_t *pool = pages(POOL_BYTES + (uint64_t)workers * WORKER_BYTES);
    int64_t imports[] = {(int64_t)pthread_create, (int64_t)pthread_join, (int64_t)syscall, (int64_t)clock_gettime};
    create_fn create = (create_fn)(void *)(code + rt->create);
    destroy_fn destroy = (destroy_fn)(void *)(code + rt->destroy);
    run_fn run = (run_fn)(void *)(code + rt->run);
    if (create(pool, imports, workers, (int64_t)(rt->flags & FLAG_AMX), pages((uint64_t)workers * stride), (int64_t)stride))
        fail("the threads cannot be started, or AMX is not permitted");
    struct run *r = pages(PAGE);
    *r = (struct run){.steps = bound, .n_steps = (int64_t)n_steps, .slots = slots, .io = addresses, .patches = patches,
                      .n_patches = n_patches, .scratch = pages(stride), .parallel = parallel < threads ? parallel : threads,
                      .lines = pages((uint64_t)(RING * (threads + 1) * LINE)), .threads = threads};

    struct timespec a, b;
    double best = 1e300;
    for (int64_t i = 0; i < repetitions; i++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        run(pool, r, 0, (int64_t)n_steps);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double t = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
        if (t < best) best = t;
    }
    destroy(pool);
    if (repetitions > 1) printf("best of %lld: %.1f us\n", (long long)repetitions, best * 1e6);

    for (uint64_t i = rt->n_inputs; i < n_io; i++) write_file(files[1 + i], (void *)addresses[i], io[i].bytes);
    return 0;
}
