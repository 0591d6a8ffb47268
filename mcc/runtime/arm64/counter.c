/* A plug-in for qemu that counts how often every block of instructions runs, between two marks.
 *
 *     qemu-aarch64 -plugin libcounter.so,out=FILE program
 *
 * The program marks where counting begins and ends with the system call MARK_CALL; within, every call of
 * clock_gettime closes a window: LiteRT's profiler reads the clock between two operators. FILE then holds
 *
 *     B <number> <address> <bytes in hex>      a block, once
 *     W <window>                               a window begins: 0, 1, ... within a mark
 *     C <block> <times>                        a block that ran in it
 *     E                                        the mark ends
 *
 * It is built without a C library of this machine: what it calls, qemu has loaded.
 */
#include "qemu_plugin.h"

typedef struct File File;
File *fopen(const char *path, const char *mode);
int fprintf(File *file, const char *format, ...);
int fclose(File *file);
void *calloc(size_t count, size_t size);
int strncmp(const char *a, const char *b, size_t count);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

/* As runner.c has them; CLOCK_CALL is clock_gettime on ARM64. */
enum { MARK_CALL = 0x6d63, MARK_BEGIN = 1, MARK_END = 2, CLOCK_CALL = 113, MOST_BLOCKS = 1 << 20, PART = 1 << 12 };

/* Counters never move, since translated code holds their addresses: they live in parts of PART each. */
typedef struct {
    uint64_t times, before;
} Counter;

static Counter *parts[MOST_BLOCKS / PART];
static size_t block_count;
static File *out;
static int counting, window;

static Counter *counter_at(size_t block) { return &parts[block / PART][block % PART]; }

static void on_translation(PluginId id, Block *block) {
    (void)id;
    if (block_count == MOST_BLOCKS) return; /* on_exit says so */
    if (!parts[block_count / PART]) parts[block_count / PART] = calloc(PART, sizeof(Counter));
    size_t count = qemu_plugin_tb_n_insns(block);
    fprintf(out, "B %zu %llx ", block_count, (unsigned long long)qemu_plugin_tb_vaddr(block));
    for (size_t index = 0; index < count; index++) {
        const unsigned char *code = qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, index));
        fprintf(out, "%02x%02x%02x%02x", code[0], code[1], code[2], code[3]);
    }
    fprintf(out, "\n");
    qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD_U64, &counter_at(block_count)->times, 1);
    block_count++;
}

static void close_window(int write) {
    if (write) fprintf(out, "W %d\n", window);
    for (size_t block = 0; block < block_count; block++) {
        Counter *counter = counter_at(block);
        if (write && counter->times != counter->before)
            fprintf(out, "C %zu %llu\n", block, (unsigned long long)(counter->times - counter->before));
        counter->before = counter->times;
    }
}

static void on_system_call(PluginId id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                           uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == MARK_CALL && a1 == MARK_BEGIN) {
        close_window(0);
        counting = 1;
        window = 0;
    } else if (counting && number == CLOCK_CALL) {
        close_window(1);
        window++;
    } else if (counting && number == MARK_CALL && a1 == MARK_END) {
        close_window(1);
        fprintf(out, "E\n");
        counting = 0;
    }
}

static void on_exit(PluginId id, void *data) {
    (void)id, (void)data;
    if (block_count == MOST_BLOCKS) fprintf(out, "full\n");
    fclose(out);
}

EXPORT int qemu_plugin_install(PluginId id, const PluginInfo *info, int count, char **arguments) {
    (void)info;
    if (count != 1 || strncmp(arguments[0], "out=", 4)) return 1;
    out = fopen(arguments[0] + 4, "w");
    if (!out) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_system_call);
    qemu_plugin_register_atexit_cb(id, on_exit, 0);
    return 0;
}
