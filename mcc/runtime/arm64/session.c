/* See session.h. Options of LiteRT's CPU accelerator are TOML text: litert/c/options/litert_cpu_options.cc. */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(file, call) check(file, #call, call)

void fail(const char *file, const char *what, Status status) {
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

static void add_option(Session *session, const char *name, char *text) {
    Handle opaque;
    CHECK(session->file, LiteRtCreateOpaqueOptions(name, text, leave, &opaque));
    CHECK(session->file, LiteRtAddOpaqueOptions(session->options, opaque));
}

/* Name, type, quantisation and buffer of one input or output. */
static void describe(Session *session, Tensor *tensor, Handle handle, Handle needs) {
    const char *name = "", *file = session->file;
    int kind = 0;
    CHECK(file, LiteRtGetTensorName(handle, &name));
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    CHECK(file, LiteRtGetRankedTensorType(handle, &tensor->type));
    if ((tensor->type.rank & 0x7f) > MAX_RANK) fail(file, "a tensor has more than 8 axes", 0);
    CHECK(file, LiteRtGetQuantizationTypeId(handle, &kind));
    tensor->quantised = kind == PER_TENSOR;
    if (tensor->quantised) CHECK(file, LiteRtGetPerTensorQuantization(handle, &tensor->parameters));
    CHECK(file, LiteRtCreateManagedTensorBufferFromRequirements(session->environment, &tensor->type, needs,
                                                                &tensor->buffer));
    CHECK(file, LiteRtGetTensorBufferPackedSize(tensor->buffer, &tensor->bytes));
}

typedef Status (*TensorAt)(Handle, size_t, Handle *);
typedef Status (*NeedsAt)(Handle, size_t, size_t, Handle *);

/* Inputs or outputs in the file's order; each finds its place in the signature's by its handle. */
static void open_side(Session *session, Handle subgraph, Handle signature, size_t count, Tensor *tensors, Handle *packed,
                      TensorAt in_file, TensorAt in_signature, NeedsAt needs_at) {
    const char *file = session->file;
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
        CHECK(file, needs_at(session->compiled, 0, place, &needs));
        describe(session, &tensors[index], tensor, needs);
        tensors[index].place = place;
        packed[place] = tensors[index].buffer;
    }
}

void session_open(Session *session, const char *file, int threads, const char *kernels, int profile) {
    static char cpu[128];
    static char runtime[] = "enable_profiling = true\n";
    Handle subgraph, signature;
    memset(session, 0, sizeof *session);
    session->file = file;
    snprintf(cpu, sizeof cpu, "kernel_mode = \"%s\"\nnum_threads = %d\n", kernels, threads);
    CHECK(file, LiteRtCreateEnvironment(0, NULL, &session->environment));
    CHECK(file, LiteRtCreateModelFromFile(session->environment, file, &session->model));
    CHECK(file, LiteRtCreateOptions(&session->options));
    CHECK(file, LiteRtSetOptionsHardwareAccelerators(session->options, ON_CPU));
    add_option(session, "xnnpack", cpu);
    if (profile) add_option(session, "runtime_options_string", runtime);
    CHECK(file,
          LiteRtCreateCompiledModel(session->environment, session->model, session->options, &session->compiled));
    CHECK(file, LiteRtGetModelSubgraph(session->model, 0, &subgraph));
    CHECK(file, LiteRtGetModelSignature(session->model, 0, &signature));
    CHECK(file, LiteRtGetNumSubgraphInputs(subgraph, &session->input_count));
    CHECK(file, LiteRtGetNumSubgraphOutputs(subgraph, &session->output_count));
    open_side(session, subgraph, signature, session->input_count, session->inputs, session->in, LiteRtGetSubgraphInput,
              LiteRtGetSignatureInputTensorByIndex, LiteRtGetCompiledModelInputBufferRequirements);
    open_side(session, subgraph, signature, session->output_count, session->outputs, session->out,
              LiteRtGetSubgraphOutput, LiteRtGetSignatureOutputTensorByIndex,
              LiteRtGetCompiledModelOutputBufferRequirements);
}

void session_write(Session *session, size_t input, const void *data) {
    Tensor *tensor = &session->inputs[input];
    void *address;
    CHECK(session->file, LiteRtLockTensorBuffer(tensor->buffer, &address, LOCK_TO_WRITE));
    memcpy(address, data, tensor->bytes);
    CHECK(session->file, LiteRtUnlockTensorBuffer(tensor->buffer));
}

void session_read(Session *session, size_t output, void *data) {
    Tensor *tensor = &session->outputs[output];
    void *address;
    CHECK(session->file, LiteRtLockTensorBuffer(tensor->buffer, &address, LOCK_TO_READ));
    memcpy(data, address, tensor->bytes);
    CHECK(session->file, LiteRtUnlockTensorBuffer(tensor->buffer));
}

void session_run(Session *session) {
    CHECK(session->file, LiteRtRunCompiledModel(session->compiled, 0, session->input_count, session->in,
                                                session->output_count, session->out));
}

void session_close(Session *session) {
    for (size_t index = 0; index < session->input_count; index++) LiteRtDestroyTensorBuffer(session->in[index]);
    for (size_t index = 0; index < session->output_count; index++) LiteRtDestroyTensorBuffer(session->out[index]);
    LiteRtDestroyCompiledModel(session->compiled);
    LiteRtDestroyOptions(session->options);
    LiteRtDestroyModel(session->model);
    LiteRtDestroyEnvironment(session->environment);
}
