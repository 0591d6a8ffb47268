/* See session.h. Options of LiteRT's CPU accelerator are TOML text: litert/c/options/litert_cpu_options.cc. */
#include "session.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "litert.h"

typedef struct {
    TensorType type;
    Handle buffer;
    size_t place; /* among the buffers of the signature, which may stand in another order than in the file */
} Slot;

/* What LiteRT keeps of the one session. */
static struct {
    Handle environment, model, options, compiled, profiler;
    Slot inputs[MOST_TENSORS], outputs[MOST_TENSORS];   /* in the file's order */
    Handle in[MOST_TENSORS], out[MOST_TENSORS];         /* buffers in the signature's order */
} litert;

const char *const session_kernels[] = {"xnnpack", "builtin", "reference", NULL};

/* Element types that LiteRT numbers, in numpy's names; see litert/c/litert_model_types.h. */
static const char *element_name(int element) {
    static const char *const names[] = {NULL,    "float32", "int32",   "uint8", "int64",   NULL,   "bool",
                                        "int16", NULL,      "int8",    "float16", "float64"};
    int known = element > 0 && element < (int)(sizeof names / sizeof *names) && names[element];
    return known ? names[element] : "unknown";
}

#define CHECK(file, call) check(file, #call, call)

void fail(const char *file, const char *what, int status) {
    int length = (int)strcspn(what, "("); /* of a call, its name alone */
    if (status)
        fprintf(stderr, "runner: %s: %.*s failed with status %d\n", file, length, what, status);
    else
        fprintf(stderr, "runner: %s: %s\n", file, what);
    exit(1);
}

static void check(const char *file, const char *call, Status status) {
    if (status) fail(file, call, status);
}

static void leave(void *payload) { (void)payload; /* the texts below live as long as the program */ }

static void add_option(const char *file, const char *name, char *text) {
    Handle opaque;
    CHECK(file, LiteRtCreateOpaqueOptions(name, text, leave, &opaque));
    CHECK(file, LiteRtAddOpaqueOptions(litert.options, opaque));
}

/* Name, type, quantisation and buffer of one input or output. */
static void describe(const char *file, Tensor *tensor, Slot *slot, Handle handle, Handle needs) {
    const char *name = "";
    int kind = 0;
    PerTensor parameters = {0};
    CHECK(file, LiteRtGetTensorName(handle, &name));
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    CHECK(file, LiteRtGetRankedTensorType(handle, &slot->type));
    tensor->dtype = element_name(slot->type.element);
    tensor->rank = (int)(slot->type.rank & 0x7f);
    if (tensor->rank > MOST_AXES) fail(file, "a tensor has more than 8 axes", 0);
    for (int axis = 0; axis < tensor->rank; axis++) tensor->shape[axis] = slot->type.dimensions[axis];
    CHECK(file, LiteRtGetQuantizationTypeId(handle, &kind));
    tensor->quantised = kind == PER_TENSOR;
    if (tensor->quantised) CHECK(file, LiteRtGetPerTensorQuantization(handle, &parameters));
    tensor->scale = (double)parameters.scale;
    tensor->zero_point = parameters.zero_point;
    CHECK(file, LiteRtCreateManagedTensorBufferFromRequirements(litert.environment, &slot->type, needs, &slot->buffer));
    CHECK(file, LiteRtGetTensorBufferPackedSize(slot->buffer, &tensor->bytes));
}

typedef Status (*TensorAt)(Handle, size_t, Handle *);
typedef Status (*NeedsAt)(Handle, size_t, size_t, Handle *);

/* Inputs or outputs in the file's order; each finds its place in the signature's by its handle. */
static void open_side(const char *file, Handle subgraph, Handle signature, size_t count, Tensor *tensors, Slot *slots,
                      Handle *packed, TensorAt in_file, TensorAt in_signature, NeedsAt needs_at) {
    if (count > MOST_TENSORS) fail(file, "more than 64 inputs or outputs", 0);
    for (size_t index = 0; index < count; index++) {
        Handle tensor, other = NULL, needs;
        CHECK(file, in_file(subgraph, index, &tensor));
        size_t place = 0;
        for (; place < count; place++) {
            CHECK(file, in_signature(signature, place, &other));
            if (other == tensor) break;
        }
        if (place == count) fail(file, "its signature leaves out an input or output", 0);
        CHECK(file, needs_at(litert.compiled, 0, place, &needs));
        describe(file, &tensors[index], &slots[index], tensor, needs);
        slots[index].place = place;
        packed[place] = slots[index].buffer;
    }
}

void session_open(Session *session, const char *file, int threads, const char *kernels, int profile) {
    static char cpu[128];
    static char runtime[] = "enable_profiling = true\n";
    Handle subgraph, signature;
    memset(session, 0, sizeof *session);
    memset(&litert, 0, sizeof litert);
    session->file = file;
    snprintf(cpu, sizeof cpu, "kernel_mode = \"%s\"\nnum_threads = %d\n", kernels, threads);
    CHECK(file, LiteRtCreateEnvironment(0, NULL, &litert.environment));
    CHECK(file, LiteRtCreateModelFromFile(litert.environment, file, &litert.model));
    CHECK(file, LiteRtCreateOptions(&litert.options));
    CHECK(file, LiteRtSetOptionsHardwareAccelerators(litert.options, ON_CPU));
    add_option(file, "xnnpack", cpu);
    if (profile) add_option(file, "runtime_options_string", runtime);
    CHECK(file, LiteRtCreateCompiledModel(litert.environment, litert.model, litert.options, &litert.compiled));
    CHECK(file, LiteRtGetModelSubgraph(litert.model, 0, &subgraph));
    CHECK(file, LiteRtGetModelSignature(litert.model, 0, &signature));
    CHECK(file, LiteRtGetNumSubgraphInputs(subgraph, &session->input_count));
    CHECK(file, LiteRtGetNumSubgraphOutputs(subgraph, &session->output_count));
    open_side(file, subgraph, signature, session->input_count, session->inputs, litert.inputs, litert.in,
              LiteRtGetSubgraphInput, LiteRtGetSignatureInputTensorByIndex,
              LiteRtGetCompiledModelInputBufferRequirements);
    open_side(file, subgraph, signature, session->output_count, session->outputs, litert.outputs, litert.out,
              LiteRtGetSubgraphOutput, LiteRtGetSignatureOutputTensorByIndex,
              LiteRtGetCompiledModelOutputBufferRequirements);
}

void session_write(Session *session, size_t input, const void *data) {
    void *address;
    CHECK(session->file, LiteRtLockTensorBuffer(litert.inputs[input].buffer, &address, LOCK_TO_WRITE));
    memcpy(address, data, session->inputs[input].bytes);
    CHECK(session->file, LiteRtUnlockTensorBuffer(litert.inputs[input].buffer));
}

void session_read(Session *session, size_t output, void *data) {
    void *address;
    CHECK(session->file, LiteRtLockTensorBuffer(litert.outputs[output].buffer, &address, LOCK_TO_READ));
    memcpy(data, address, session->outputs[output].bytes);
    CHECK(session->file, LiteRtUnlockTensorBuffer(litert.outputs[output].buffer));
}

void session_run(Session *session) {
    CHECK(session->file, LiteRtRunCompiledModel(litert.compiled, 0, session->input_count, litert.in,
                                                session->output_count, litert.out));
}

void session_begin_profile(Session *session) {
    CHECK(session->file, LiteRtCompiledModelGetProfiler(litert.compiled, &litert.profiler));
    CHECK(session->file, LiteRtStartProfiler(litert.profiler));
}

/* Every event as [tag, type, microseconds, start]; what they mean is the reader's work. */
void session_end_profile(Session *session, FILE *report) {
    int count = 0;
    LiteRtStopProfiler(litert.profiler);
    Status status = LiteRtGetNumProfilerEvents(litert.profiler, &count);
    if (status || count < 0 || count > MOST_EVENTS) fail(session->file, "the profiler has no events", 0);
    ProfilerEvent *events = calloc((size_t)count + 1, sizeof *events);
    CHECK(session->file, LiteRtGetProfilerEvents(litert.profiler, count, events));
    fprintf(report, ", \"events\": [");
    for (int index = 0; index < count; index++) {
        fprintf(report, "%s[", index ? ", " : "");
        write_text(report, events[index].tag ? events[index].tag : "");
        fprintf(report, ", %d, %" PRIu64 ", %" PRIu64 "]", events[index].type, events[index].elapsed_us,
                events[index].start_us);
    }
    fprintf(report, "]");
    free(events);
}

void session_close(Session *session) {
    for (size_t index = 0; index < session->input_count; index++) LiteRtDestroyTensorBuffer(litert.in[index]);
    for (size_t index = 0; index < session->output_count; index++) LiteRtDestroyTensorBuffer(litert.out[index]);
    LiteRtDestroyCompiledModel(litert.compiled);
    LiteRtDestroyOptions(litert.options);
    LiteRtDestroyModel(litert.model);
    LiteRtDestroyEnvironment(litert.environment);
}
