/* Runs models with LiteRT or onnxruntime on ARM64 Linux: under qemu-user, or on a phone over adb.
 *
 *     runner [OPTION...] MODEL...
 *
 * Files in, files out: it needs the runtime's library beside it and nothing else. For every model it prints two lines of
 * JSON: {file, inputs, outputs} when it is loaded, then what was measured: {ns, events, peak_before_bytes, ...}.
 * Any failure is one line on standard error and exit status 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "session.h"

static const char USAGE[] =
    "usage: runner [OPTION...] MODEL...\n"
    "  --threads N      threads of an inference (1)\n"
    "  --kernels WHICH  of LiteRT: xnnpack, builtin (its own) or reference (slow, for checking numbers)\n"
    "  --inputs FILE    raw tensors, one inference's after the other, each inference's in the file's order; -: standard\n"
    "                   input; without it, one set of numbers with a fixed seed\n"
    "  --outputs FILE   raw tensors, written in the same manner; -: standard output, between the two lines of JSON\n"
    "  --warmup N       inferences before the timed ones (0)\n"
    "  --runs N         timed inferences (0), with the last inputs\n"
    "  --warm-ms N      more inferences before the timed ones, until that many milliseconds are over\n"
    "  --for-ms N       more timed inferences, until they took that many milliseconds together\n"
    "  --memory         peak resident memory before loading and after all inferences\n"
    "  --rehearse       load and run once before the memory is read, so that an emulator's own growth does not count\n"
    "  --profile        events of the runtime's profiler during the timed inferences\n"
    "  --marks          system calls that mark begin and end of every timed inference, for a counting emulator\n"
    "  --report FILE    where the lines of JSON go (standard output)\n";

enum { MARK_CALL = 0x6d63, MARK_BEGIN = 1, MARK_END = 2, MMAP_FROM = 64 << 10, MOST_RUNS = 20000 };

typedef struct {
    int threads, warmup, runs, warm_ms, for_ms, memory, rehearse, profile, marks;
    const char *kernels;
    FILE *inputs, *outputs, *report;
} Options;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t since_ms(uint64_t start_ns) { return (now_ns() - start_ns) / 1000000u; }

/* A line of /proc/self/status such as VmHWM, in bytes. */
static long long status_bytes(const char *field) {
    char line[256];
    long long kilobytes = -1;
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) return -1;
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, field, strlen(field))) kilobytes = atoll(line + strlen(field) + 1);
    fclose(status);
    return kilobytes < 0 ? -1 : kilobytes * 1024;
}

/* The peak becomes what is resident now; some systems forbid it, and the peak so far is then the base. */
static void reset_peak(void) {
    FILE *clear = fopen("/proc/self/clear_refs", "w");
    if (!clear) return;
    fputs("5", clear);
    fclose(clear);
}

void write_text(FILE *file, const char *text) {
    fputc('"', file);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') fprintf(file, "\\%c", c);
        else if (c < 0x20) fprintf(file, "\\u%04x", c);
        else fputc(c, file);
    }
    fputc('"', file);
}

static void write_tensors(FILE *file, const char *key, const Tensor *tensors, size_t count) {
    fprintf(file, "\"%s\": [", key);
    for (size_t index = 0; index < count; index++) {
        const Tensor *tensor = &tensors[index];
        fprintf(file, "%s{\"name\": ", index ? ", " : "");
        write_text(file, tensor->name);
        fprintf(file, ", \"dtype\": \"%s\", \"shape\": [", tensor->dtype);
        for (int axis = 0; axis < tensor->rank; axis++)
            fprintf(file, "%s%" PRId64, axis ? ", " : "", tensor->shape[axis]);
        fprintf(file, "]");
        if (tensor->quantised)
            fprintf(file, ", \"scale\": %.9g, \"zero_point\": %" PRId64, tensor->scale, tensor->zero_point);
        fprintf(file, "}");
    }
    fprintf(file, "]");
}

/* Standard normal floats (a sum of twelve uniform ones), or integers over a whole byte; a fixed seed. */
static void random_inputs(Session *session) {
    uint64_t state = 1;
    for (size_t index = 0; index < session->input_count; index++) {
        Tensor *tensor = &session->inputs[index];
        unsigned char *data = calloc(1, tensor->bytes ? tensor->bytes : 1);
        const char *dtype = tensor->dtype;
        int floats = !strcmp(dtype, "float32"), bytes = !strcmp(dtype, "int8") || !strcmp(dtype, "uint8");
        for (size_t at = 0; at < tensor->bytes && (floats || bytes); at += floats ? 4 : 1) {
            float sum = -6;
            for (int term = 0; term < (floats ? 12 : 1); term++) {
                state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
                sum += (float)(state >> 40) / (float)(1 << 24);
            }
            if (floats) memcpy(data + at, &sum, 4);
            else data[at] = (unsigned char)(state >> 56);
        }
        session_write(session, index, data);
        free(data);
    }
}

/* The next set of inputs; 0 at the end of the file. */
static int read_inputs(Session *session, FILE *file) {
    for (size_t index = 0; index < session->input_count; index++) {
        size_t bytes = session->inputs[index].bytes;
        void *data = malloc(bytes);
        size_t got = fread(data, 1, bytes, file);
        if (got != bytes && (got || index)) fail(session->file, "the inputs end within an inference", 0);
        if (got == bytes) session_write(session, index, data);
        free(data);
        if (got != bytes) return 0;
    }
    return session->input_count > 0;
}

static void write_outputs(Session *session, FILE *file) {
    for (size_t index = 0; index < session->output_count; index++) {
        size_t bytes = session->outputs[index].bytes;
        void *data = malloc(bytes);
        session_read(session, index, data);
        if (fwrite(data, 1, bytes, file) != bytes) fail(session->file, "cannot write the outputs", 0);
        free(data);
    }
    if (fflush(file)) fail(session->file, "cannot write the outputs", 0);
}

static void run_inputs(Session *session, const Options *options) {
    if (!options->inputs) {
        random_inputs(session);
        if (!options->outputs) return;
        session_run(session);
        write_outputs(session, options->outputs);
        return;
    }
    while (read_inputs(session, options->inputs)) {
        session_run(session);
        if (options->outputs) write_outputs(session, options->outputs);
    }
}

static void run_timed(Session *session, const Options *options, FILE *report) {
    int most = options->for_ms ? MOST_RUNS : options->runs, done = 0;
    uint64_t *took = calloc((size_t)most + 1, sizeof *took), start = now_ns();
    for (; done < most && (done < options->runs || since_ms(start) < (uint64_t)options->for_ms); done++) {
        uint64_t begin = now_ns();
        if (options->marks) syscall(MARK_CALL, MARK_BEGIN, done);
        session_run(session);
        if (options->marks) syscall(MARK_CALL, MARK_END, done);
        took[done] = now_ns() - begin;
    }
    fprintf(report, "{\"ns\": [");
    for (int run = 0; run < done; run++) fprintf(report, "%s%" PRIu64, run ? ", " : "", took[run]);
    fprintf(report, "]");
    free(took);
}

/* Load, run and forget the model: what an emulator translates then exists before the memory is read. */
static void rehearse(const char *file, const Options *options) {
    static Session session;
    session_open(&session, file, options->threads, options->kernels, options->profile);
    random_inputs(&session);
    session_run(&session);
    session_run(&session);
    session_close(&session);
    malloc_trim(0);
}

static void run_model(const char *file, const Options *options) {
    static Session session;
    FILE *report = options->report;
    long long before = 0;
    if (options->rehearse) rehearse(file, options);
    if (options->memory) {
        reset_peak();
        before = status_bytes("VmHWM");
    }
    session_open(&session, file, options->threads, options->kernels, options->profile);
    fprintf(report, "{\"file\": ");
    write_text(report, file);
    fprintf(report, ", ");
    write_tensors(report, "inputs", session.inputs, session.input_count);
    fprintf(report, ", ");
    write_tensors(report, "outputs", session.outputs, session.output_count);
    fprintf(report, "}\n");
    if (fflush(report)) fail(file, "cannot write the report", 0);
    run_inputs(&session, options);
    for (int run = 0; run < options->warmup; run++) session_run(&session);
    for (uint64_t start = now_ns(); since_ms(start) < (uint64_t)options->warm_ms;) session_run(&session);
    if (options->profile) session_begin_profile(&session);
    run_timed(&session, options, report);
    if (options->profile) session_end_profile(&session, report);
    if (options->memory)
        fprintf(report, ", \"peak_before_bytes\": %lld, \"peak_after_bytes\": %lld", before, status_bytes("VmHWM"));
    fprintf(report, "}\n");
    if (fflush(report)) fail(file, "cannot write the report", 0);
    session_close(&session);
}

static FILE *open_or_fail(const char *path, const char *mode, FILE *standard) {
    if (!strcmp(path, "-")) return standard;
    FILE *file = fopen(path, mode);
    if (!file) fail(path, strerror(errno), 0);
    return file;
}

static void wrong_use(void) {
    fputs(USAGE, stderr);
    exit(2);
}

static int number(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 0 || value > 1000000) wrong_use();
    return (int)value;
}

int main(int count, char **arguments) {
    Options options = {.threads = 1, .kernels = session_kernels[0], .report = stdout};
    struct { const char *name; int *flag; } flags[] = {
        {"--memory", &options.memory}, {"--rehearse", &options.rehearse}, {"--profile", &options.profile},
        {"--marks", &options.marks}};
    struct { const char *name; int *value; } numbers[] = {
        {"--threads", &options.threads}, {"--warmup", &options.warmup}, {"--runs", &options.runs},
        {"--warm-ms", &options.warm_ms}, {"--for-ms", &options.for_ms}};
    int at = 1;
    mallopt(M_MMAP_THRESHOLD, MMAP_FROM); /* fixed: freed tensors go back to the system, as on Android */
    while (at < count && !strncmp(arguments[at], "--", 2)) {
        const char *name = arguments[at++];
        int known = 0;
        for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
            if (!strcmp(name, flags[i].name)) known = *flags[i].flag = 1;
        if (known) continue;
        if (at == count) wrong_use();
        const char *value = arguments[at++];
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (!strcmp(name, numbers[i].name)) *numbers[i].value = number(value), known = 1;
        if (known) continue;
        if (!strcmp(name, "--kernels")) options.kernels = value;
        else if (!strcmp(name, "--inputs")) options.inputs = open_or_fail(value, "rb", stdin);
        else if (!strcmp(name, "--outputs")) options.outputs = open_or_fail(value, "wb", stdout);
        else if (!strcmp(name, "--report")) options.report = open_or_fail(value, "w", stdout);
        else wrong_use();
    }
    const char *const *known_kernels = session_kernels;
    while (*known_kernels && strcmp(options.kernels, *known_kernels)) known_kernels++;
    if (!*known_kernels) wrong_use();
    if (at == count || options.threads < 1 || (options.inputs && count - at > 1)) wrong_use();
    for (; at < count; at++) run_model(arguments[at], &options);
    return 0;
}
