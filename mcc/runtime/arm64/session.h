/* One .tflite file, loaded by LiteRT and ready to run. */
#ifndef MCC_SESSION_H
#define MCC_SESSION_H

#include "litert.h"

enum { MOST_TENSORS = 64 };

typedef struct {
    char name[256];
    TensorType type;
    int quantised; /* with one scale for the tensor */
    PerTensor parameters;
    Handle buffer;
    size_t bytes;
    size_t place; /* among the buffers of the signature, which may stand in another order than in the file */
} Tensor;

typedef struct {
    const char *file;
    Handle environment, model, options, compiled;
    size_t input_count, output_count;
    Tensor inputs[MOST_TENSORS], outputs[MOST_TENSORS]; /* in the file's order */
    Handle in[MOST_TENSORS], out[MOST_TENSORS];         /* buffers in the signature's order */
} Session;

/* Each of these ends the program with one line on standard error where LiteRT refuses. */
void session_open(Session *session, const char *file, int threads, const char *kernels, int profile);
void session_write(Session *session, size_t input, const void *data);
void session_read(Session *session, size_t output, void *data);
void session_run(Session *session);
void session_close(Session *session);

/* Ends the program: "runner: FILE: WHAT" and exit status 1. */
void fail(const char *file, const char *what, Status status);

#endif
