/* The part of qemu's plug-in interface that counter.c uses, declared anew: Debian ships no header for it.
 *
 * Version 1, of qemu 5.2 to 8.2. Source: "QEMU TCG Plugins" in qemu's documentation, docs/devel/tcg-plugins.
 */
#ifndef MCC_QEMU_PLUGIN_H
#define MCC_QEMU_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

enum { PLUGIN_VERSION = 1, INLINE_ADD_U64 = 0 };

typedef uint64_t PluginId;
typedef struct qemu_plugin_tb Block;        /* a translation block: instructions up to the next branch */
typedef struct qemu_plugin_insn Instruction;
typedef struct qemu_info PluginInfo;        /* never looked into */

typedef void (*OnTranslation)(PluginId id, Block *block);
typedef void (*OnSystemCall)(PluginId id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                             uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
typedef void (*OnExit)(PluginId id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(PluginId id, OnTranslation callback);
void qemu_plugin_register_vcpu_syscall_cb(PluginId id, OnSystemCall callback);
void qemu_plugin_register_atexit_cb(PluginId id, OnExit callback, void *data);
void qemu_plugin_register_vcpu_tb_exec_inline(Block *block, int operation, void *counter, uint64_t amount);
size_t qemu_plugin_tb_n_insns(const Block *block);
uint64_t qemu_plugin_tb_vaddr(const Block *block);
Instruction *qemu_plugin_tb_get_insn(const Block *block, size_t index);
const void *qemu_plugin_insn_data(const Instruction *instruction);

#endif
