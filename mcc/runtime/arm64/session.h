/* One model file, loaded by a runtime and ready to run: session.c with LiteRT, session_ort.c with onnxruntime. */
#ifndef MCC_SESSION_H
#define MCC_SESSION_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { MOST_TENSORS = 64, MOST_AXES = 8, MOST_EVENTS = 1 << 20 };

typedef struct {
    char name[256];
    const char *dtype; /* numpy's name of the element type */
    int rank;
    int64_t shape[MOST_AXES];
    int quantised; /* with one scale for the tensor */
    double scale;
    int64_t zero_point;
    size_t bytes;
} Tensor;

typedef struct {
    const char *file;
    size_t input_count, output_count;
    Tensor inputs[MOST_TENSORS], outputs[MOST_TENSORS]; /* in the file's order */
} Session;

extern const char *const session_kernels[]; /* what --kernels may ask for, the default first; NULL at the end */

/* Each of these ends the program with one line on standard error where the runtime refuses. One session at a time. */
void session_open(Session *session, const char *file, int threads, const char *kernels, int profile);
void session_write(Session *session, size_t input, const void *data);
void session_read(Session *session, size_t output, void *data);
void session_run(Session *session);
void session_close(Session *session);

/* Around the inferences that are profiled; the latter writes "events" of the runtime's own, as part of an object. */
void session_begin_profile(Session *session);
void session_end_profile(Session *session, FILE *report);

/* Ends the program: "runner: FILE: WHAT" and exit status 1. */
void fail(const char *file, const char *what, int status);

void write_text(FILE *file, const char *text); /* as a string of JSON */

#endif
