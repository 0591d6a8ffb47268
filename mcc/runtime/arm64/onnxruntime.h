/* The part of onnxruntime's C interface that session_ort.c calls, declared anew: PyPI's package ships no headers.
 *
 * The interface is a table of functions of which a place, once shipped, never changes: onnxruntime asserts it when it
 * is compiled, and `GetApi(2)` gives those of version 2 and all before in every later library.
 * Source: onnxruntime/core/session/onnxruntime_c_api.cc of github.com/microsoft/onnxruntime.
 */
#ifndef MCC_ONNXRUNTIME_H
#define MCC_ONNXRUNTIME_H

#include <stddef.h>
#include <stdint.h>

typedef void *Object; /* every object of onnxruntime is an opaque pointer */
typedef Object Status; /* NULL: well */
typedef void *const *Api;

typedef struct {
    Api (*get_api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

const ApiBase *OrtGetApiBase(void);

enum { API_VERSION = 2, LOG_ERRORS = 3, ARENA = 1, DEFAULT_MEMORY = 0 };

/* Places in the table. */
enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    ENABLE_PROFILING = 14,
    SET_SESSION_LOG_SEVERITY_LEVEL = 22,
    SET_INTRA_OP_NUM_THREADS = 24,
    SET_INTER_OP_NUM_THREADS = 25,
    SESSION_GET_INPUT_COUNT = 30,
    SESSION_GET_OUTPUT_COUNT = 31,
    SESSION_GET_INPUT_TYPE_INFO = 33,
    SESSION_GET_OUTPUT_TYPE_INFO = 34,
    SESSION_GET_INPUT_NAME = 36,
    SESSION_GET_OUTPUT_NAME = 37,
    CREATE_TENSOR_WITH_DATA_AS_VALUE = 49,
    CAST_TYPE_INFO_TO_TENSOR_INFO = 55,
    GET_TENSOR_ELEMENT_TYPE = 60,
    GET_DIMENSIONS_COUNT = 61,
    GET_DIMENSIONS = 62,
    CREATE_CPU_MEMORY_INFO = 69,
    GET_ALLOCATOR_WITH_DEFAULT_OPTIONS = 78,
    RELEASE_ENV = 92,
    RELEASE_MEMORY_INFO = 94,
    RELEASE_SESSION = 95,
    RELEASE_VALUE = 96,
    RELEASE_TYPE_INFO = 98,
    RELEASE_SESSION_OPTIONS = 100,
    SESSION_END_PROFILING = 110
};

typedef Status (*Make)(Object *);
typedef Status (*SetNumber)(Object, int);
typedef Status (*GetCount)(Object, size_t *);
typedef Status (*GetPart)(Object, size_t, Object *);
typedef Status (*GetName)(Object, size_t, Object allocator, char **);
typedef void (*Release)(Object);
typedef const char *(*GetErrorMessage)(Status);
typedef Status (*CreateEnv)(int level, const char *name, Object *);
typedef Status (*CreateSession)(Object environment, const char *path, Object options, Object *);
typedef Status (*Run)(Object session, Object options, const char *const *input_names, const Object *inputs,
                      size_t input_count, const char *const *output_names, size_t output_count, Object *outputs);
typedef Status (*EnableProfiling)(Object options, const char *prefix);
typedef Status (*EndProfiling)(Object session, Object allocator, char **file);
typedef Status (*CreateValue)(Object memory, void *data, size_t bytes, const int64_t *shape, size_t rank, int element,
                              Object *);
typedef Status (*CastTypeInfo)(Object info, Object *tensor_info);
typedef Status (*GetElement)(Object tensor_info, int *element);
typedef Status (*GetDimensions)(Object tensor_info, int64_t *shape, size_t rank);
typedef Status (*CreateMemoryInfo)(int allocator, int memory, Object *);

#endif
