// The messages of mcc/runtime/wire.py, for Node.js and browsers alike:
//
//     uint32 header bytes | uint32 payload bytes | header (JSON, UTF-8) | payload      (little endian)

export const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** A request that does not fit the file: the caller's mistake, not the runtime's. */
export class UsageError extends Error {}

/** Bytes of header and payload that follow a prefix of eight bytes. */
export function sizes(prefix) {
    const view = new DataView(prefix.buffer, prefix.byteOffset, 8);
    return [view.getUint32(0, true), view.getUint32(4, true)];
}

/** A header and its arrays, from the bytes of both. */
export function decode(head, payload) {
    const header = JSON.parse(new TextDecoder().decode(head));
    let offset = 0;
    const arrays = header.tensors.map(({ dtype, shape }) => {
        const Type = TYPES[dtype];
        if (Type === undefined) throw new UsageError(`LiteRT.js takes no ${dtype} arrays`);
        const bytes = elements(shape) * Type.BYTES_PER_ELEMENT;
        // a copy: typed arrays must be aligned to their element size
        const data = new Type(payload.slice(offset, offset + bytes).buffer);
        offset += bytes;
        return { data, shape, dtype };
    });
    return { header, arrays };
}

/** One message as a list of byte arrays. */
export function encode(header, arrays) {
    const tensors = arrays.map(({ shape, dtype }) => ({ shape, dtype }));
    const head = new TextEncoder().encode(JSON.stringify({ ...header, tensors }));
    const parts = arrays.map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    const prefix = new Uint8Array(8);
    const view = new DataView(prefix.buffer);
    view.setUint32(0, head.length, true);
    view.setUint32(4, parts.reduce((sum, part) => sum + part.length, 0), true);
    return [prefix, head, ...parts];
}

/** The answer for an error, as one sentence. */
export function refusal(error) {
    const text = String(error?.message ?? error).replace(/\s+/g, " ").slice(0, 300);
    const usage = error instanceof UsageError;
    return { ok: false, error: usage ? text : `the runtime refuses it: ${text}`, usage };
}

export const elements = (shape) => shape.reduce((a, b) => a * b, 1);
