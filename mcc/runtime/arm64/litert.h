/* The part of LiteRT's C interface that runner.c calls, declared anew: PyPI's package ships no headers.
 *
 * Tried with libLiteRt.so of ai-edge-litert 2.3. The interface is not promised to stay as it is, so the Python
 * side refuses other versions. Source: litert/c/ of github.com/google-ai-edge/LiteRT.
 */
#ifndef MCC_LITERT_H
#define MCC_LITERT_H

#include <stddef.h>
#include <stdint.h>

typedef void *Handle; /* every object of LiteRT is an opaque pointer */
typedef int Status;   /* 0: well */

enum { ON_CPU = 1, LOCK_TO_READ = 0, LOCK_TO_WRITE = 1, PER_TENSOR = 1, MAX_RANK = 8 };

typedef struct {
    int32_t element; /* numbered as in the .tflite runtime, not as in the file */
    uint32_t rank;   /* low 7 bits; bit 7: strides are given */
    int32_t dimensions[MAX_RANK];
    uint32_t strides[MAX_RANK];
    uint64_t room[8]; /* for versions that write more */
} TensorType;

typedef struct {
    float scale;
    int64_t zero_point;
} PerTensor;

typedef struct {
    const char *tag;
    int32_t type; /* 2: an operator, 4 and 8: an operator inside a delegate */
    uint64_t start_us;
    uint64_t elapsed_us;
    int64_t memory[6];
    uint64_t node;
    uint64_t metadata;
    int32_t source;
} ProfilerEvent;

Status LiteRtCreateEnvironment(int count, const void *options, Handle *environment);
void LiteRtDestroyEnvironment(Handle environment);
Status LiteRtCreateModelFromFile(Handle environment, const char *path, Handle *model);
void LiteRtDestroyModel(Handle model);
Status LiteRtCreateOptions(Handle *options);
void LiteRtDestroyOptions(Handle options);
Status LiteRtSetOptionsHardwareAccelerators(Handle options, int accelerators);
Status LiteRtCreateOpaqueOptions(const char *name, void *payload, void (*release)(void *), Handle *opaque);
Status LiteRtAddOpaqueOptions(Handle options, Handle opaque);
Status LiteRtCreateCompiledModel(Handle environment, Handle model, Handle options, Handle *compiled);
void LiteRtDestroyCompiledModel(Handle compiled);

Status LiteRtGetModelSubgraph(Handle model, size_t index, Handle *subgraph);
Status LiteRtGetNumSubgraphInputs(Handle subgraph, size_t *count);
Status LiteRtGetNumSubgraphOutputs(Handle subgraph, size_t *count);
Status LiteRtGetSubgraphInput(Handle subgraph, size_t index, Handle *tensor);
Status LiteRtGetSubgraphOutput(Handle subgraph, size_t index, Handle *tensor);
Status LiteRtGetModelSignature(Handle model, size_t index, Handle *signature);
Status LiteRtGetSignatureInputTensorByIndex(Handle signature, size_t index, Handle *tensor);
Status LiteRtGetSignatureOutputTensorByIndex(Handle signature, size_t index, Handle *tensor);
Status LiteRtGetTensorName(Handle tensor, const char **name);
Status LiteRtGetTensorIndex(Handle tensor, uint32_t *index);
Status LiteRtGetRankedTensorType(Handle tensor, TensorType *type);
Status LiteRtGetQuantizationTypeId(Handle tensor, int *kind);
Status LiteRtGetPerTensorQuantization(Handle tensor, PerTensor *parameters);

Status LiteRtGetCompiledModelInputBufferRequirements(Handle compiled, size_t signature, size_t index, Handle *needs);
Status LiteRtGetCompiledModelOutputBufferRequirements(Handle compiled, size_t signature, size_t index, Handle *needs);
Status LiteRtCreateManagedTensorBufferFromRequirements(Handle environment, const TensorType *type, Handle needs,
                                                       Handle *buffer);
Status LiteRtGetTensorBufferPackedSize(Handle buffer, size_t *bytes);
Status LiteRtLockTensorBuffer(Handle buffer, void **address, int mode);
Status LiteRtUnlockTensorBuffer(Handle buffer);
void LiteRtDestroyTensorBuffer(Handle buffer);
Status LiteRtRunCompiledModel(Handle compiled, size_t signature, size_t inputs, Handle *in, size_t outputs,
                              Handle *out);

Status LiteRtCompiledModelGetProfiler(Handle compiled, Handle *profiler);
Status LiteRtStartProfiler(Handle profiler);
Status LiteRtStopProfiler(Handle profiler);
Status LiteRtGetNumProfilerEvents(Handle profiler, int *count);
Status LiteRtGetProfilerEvents(Handle profiler, int count, ProfilerEvent *events);

#endif
