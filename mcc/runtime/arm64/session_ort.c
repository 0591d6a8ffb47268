/* See session.h: onnxruntime's CPU provider. Tensors lie in memory of this file's own, which it reads and writes. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "onnxruntime.h"
#include "session.h"

#define CALL(place, type) ((type)ort.api[place])
#define CHECK(file, call) check(file, call)

/* What onnxruntime keeps of the one session. */
static struct {
    Api api;
    Object environment, options, session, memory, allocator;
    const char *input_names[MOST_TENSORS], *output_names[MOST_TENSORS];
    Object in[MOST_TENSORS], out[MOST_TENSORS];
    void *input_data[MOST_TENSORS], *output_data[MOST_TENSORS];
} ort;

const char *const session_kernels[] = {"default", NULL};

void fail(const char *file, const char *what, int status) {
    fprintf(stderr, "runner: %s: %s", file, what);
    if (status) fprintf(stderr, " failed with status %d", status);
    fputc('\n', stderr);
    exit(1);
}

static void check(const char *file, Status status) {
    if (status) fail(file, CALL(GET_ERROR_MESSAGE, GetErrorMessage)(status), 0);
}

/* Element types as ONNX numbers them (TensorProto.DataType), in numpy's names, and their bytes. */
static const struct {
    const char *name;
    size_t bytes;
} elements[] = {{NULL, 0},     {"float32", 4}, {"uint8", 1}, {"int8", 1}, {"uint16", 2}, {"int16", 2},
                {"int32", 4},  {"int64", 8},   {NULL, 0},    {"bool", 1}, {"float16", 2}, {"float64", 8}};

/* Name, type and memory of one input or output; an axis of any length, such as the batch, becomes 1. */
static void describe(const char *file, Tensor *tensor, size_t index, GetName get_name, GetPart get_info,
                     const char **name, Object *value, void **data) {
    Object info, tensor_info;
    int element = 0;
    size_t rank = 0;
    char *text;
    CHECK(file, get_name(ort.session, index, ort.allocator, &text));
    *name = text;
    snprintf(tensor->name, sizeof tensor->name, "%s", text);
    CHECK(file, get_info(ort.session, index, &info));
    CHECK(file, CALL(CAST_TYPE_INFO_TO_TENSOR_INFO, CastTypeInfo)(info, &tensor_info));
    if (!tensor_info) fail(file, "an input or output is no tensor", 0);
    CHECK(file, CALL(GET_TENSOR_ELEMENT_TYPE, GetElement)(tensor_info, &element));
    if (element < 0 || element >= (int)(sizeof elements / sizeof *elements) || !elements[element].name)
        fail(file, "an input or output is of a type that cannot be handed over", 0);
    CHECK(file, CALL(GET_DIMENSIONS_COUNT, GetCount)(tensor_info, &rank));
    if (rank > MOST_AXES) fail(file, "a tensor has more than 8 axes", 0);
    CHECK(file, CALL(GET_DIMENSIONS, GetDimensions)(tensor_info, tensor->shape, rank));
    tensor->dtype = elements[element].name;
    tensor->rank = (int)rank;
    tensor->bytes = elements[element].bytes;
    for (size_t axis = 0; axis < rank; axis++) {
        if (tensor->shape[axis] < 1) tensor->shape[axis] = 1;
        tensor->bytes *= (size_t)tensor->shape[axis];
    }
    *data = calloc(1, tensor->bytes);
    CHECK(file, CALL(CREATE_TENSOR_WITH_DATA_AS_VALUE, CreateValue)(ort.memory, *data, tensor->bytes, tensor->shape,
                                                                    rank, element, value));
    CALL(RELEASE_TYPE_INFO, Release)(info);
}

void session_open(Session *session, const char *file, int threads, const char *kernels, int profile) {
    (void)kernels;
    memset(session, 0, sizeof *session);
    memset(&ort, 0, sizeof ort);
    session->file = file;
    ort.api = OrtGetApiBase()->get_api(API_VERSION);
    if (!ort.api) fail(file, "onnxruntime lacks its interface of version 2", 0);
    CHECK(file, CALL(CREATE_ENV, CreateEnv)(LOG_ERRORS, "runner", &ort.environment));
    CHECK(file, CALL(CREATE_SESSION_OPTIONS, Make)(&ort.options));
    CHECK(file, CALL(SET_INTRA_OP_NUM_THREADS, SetNumber)(ort.options, threads));
    CHECK(file, CALL(SET_INTER_OP_NUM_THREADS, SetNumber)(ort.options, 1));
    CHECK(file, CALL(SET_SESSION_LOG_SEVERITY_LEVEL, SetNumber)(ort.options, LOG_ERRORS));
    if (profile) CHECK(file, CALL(ENABLE_PROFILING, EnableProfiling)(ort.options, file));
    CHECK(file, CALL(CREATE_SESSION, CreateSession)(ort.environment, file, ort.options, &ort.session));
    CHECK(file, CALL(CREATE_CPU_MEMORY_INFO, CreateMemoryInfo)(ARENA, DEFAULT_MEMORY, &ort.memory));
    CHECK(file, CALL(GET_ALLOCATOR_WITH_DEFAULT_OPTIONS, Make)(&ort.allocator));
    CHECK(file, CALL(SESSION_GET_INPUT_COUNT, GetCount)(ort.session, &session->input_count));
    CHECK(file, CALL(SESSION_GET_OUTPUT_COUNT, GetCount)(ort.session, &session->output_count));
    if (session->input_count > MOST_TENSORS || session->output_count > MOST_TENSORS)
        fail(file, "more than 64 inputs or outputs", 0);
    for (size_t index = 0; index < session->input_count; index++)
        describe(file, &session->inputs[index], index, CALL(SESSION_GET_INPUT_NAME, GetName),
                 CALL(SESSION_GET_INPUT_TYPE_INFO, GetPart), &ort.input_names[index], &ort.in[index],
                 &ort.input_data[index]);
    for (size_t index = 0; index < session->output_count; index++)
        describe(file, &session->outputs[index], index, CALL(SESSION_GET_OUTPUT_NAME, GetName),
                 CALL(SESSION_GET_OUTPUT_TYPE_INFO, GetPart), &ort.output_names[index], &ort.out[index],
                 &ort.output_data[index]);
}

void session_write(Session *session, size_t input, const void *data) {
    memcpy(ort.input_data[input], data, session->inputs[input].bytes);
}

void session_read(Session *session, size_t output, void *data) {
    memcpy(data, ort.output_data[output], session->outputs[output].bytes);
}

void session_run(Session *session) {
    CHECK(session->file, CALL(RUN, Run)(ort.session, NULL, ort.input_names, ort.in, session->input_count,
                                        ort.output_names, session->output_count, ort.out));
}

/* onnxruntime profiles from the loading of the model on. */
void session_begin_profile(Session *session) { (void)session; }

/* The value of "KEY" : in a line of JSON: a pointer behind the colon, or NULL. */
static const char *value_of(const char *line, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *found = strstr(line, quoted);
    if (!found) return NULL;
    for (found += strlen(quoted); *found == ' ' || *found == ':'; found++) continue;
    return found;
}

/* A string of JSON as it stands, quotes and escapes included. */
static void copy_string(FILE *report, const char *text) {
    fputc(*text++, report);
    while (*text && *text != '"') {
        if (*text == '\\' && text[1]) fputc(*text++, report);
        fputc(*text++, report);
    }
    fputc('"', report);
}

/* Every kernel of every inference as [event, operator, microseconds], in the order in which they ran. onnxruntime
 * writes an event a line into a file beside the model, which is removed. */
void session_end_profile(Session *session, FILE *report) {
    char *path, *line = NULL;
    size_t room = 0;
    int count = 0;
    CHECK(session->file, CALL(SESSION_END_PROFILING, EndProfiling)(ort.session, ort.allocator, &path));
    FILE *events = fopen(path, "r");
    if (!events) fail(session->file, "onnxruntime wrote no profile", 0);
    fprintf(report, ", \"events\": [");
    while (count < MOST_EVENTS && getline(&line, &room, events) >= 0) {
        const char *name = value_of(line, "name"), *kind = value_of(line, "op_name"), *us = value_of(line, "dur");
        if (!name || !kind || !us || *name != '"' || *kind != '"' || !strstr(line, "_kernel_time\"")) continue;
        fprintf(report, "%s[", count++ ? ", " : "");
        copy_string(report, name);
        fprintf(report, ", ");
        copy_string(report, kind);
        fprintf(report, ", %ld]", atol(us));
    }
    fprintf(report, "]");
    free(line);
    fclose(events);
    unlink(path);
}

void session_close(Session *session) {
    for (size_t index = 0; index < session->input_count; index++) {
        CALL(RELEASE_VALUE, Release)(ort.in[index]);
        free(ort.input_data[index]);
    }
    for (size_t index = 0; index < session->output_count; index++) {
        CALL(RELEASE_VALUE, Release)(ort.out[index]);
        free(ort.output_data[index]);
    }
    CALL(RELEASE_SESSION, Release)(ort.session);
    CALL(RELEASE_SESSION_OPTIONS, Release)(ort.options);
    CALL(RELEASE_MEMORY_INFO, Release)(ort.memory);
    CALL(RELEASE_ENV, Release)(ort.environment);
}
