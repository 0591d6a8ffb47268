// The runner of `litert-web:chromium`, page side: answers one request each time that mcc/runtime/browser.py asks.
//
// Requests and answers are the messages of mcc/runtime/wire.py, fetched from and posted to the server of this page.

import { loadLiteRt } from "@litertjs/core";

import { decode, encode, refusal, sizes } from "./messages.mjs";
import { answering } from "./models.mjs";

async function bytes(address) {
    const response = await fetch(address, { cache: "no-store" });
    if (!response.ok) throw new Error(`${address}: ${response.status} ${response.statusText}`);
    return new Uint8Array(await response.arrayBuffer());
}

const answer = answering({
    readFile: (file) => bytes(`./file?${encodeURIComponent(file)}`),
    nowMs: () => performance.now(), // resolution of 5 microseconds in a cross-origin isolated page, 100 elsewhere
});

globalThis.answerRequest = async () => {
    let parts;
    try {
        const message = await bytes("./request");
        const [head] = sizes(message);
        const [header, arrays] = await answer(decode(message.subarray(8, 8 + head), message.subarray(8 + head)));
        parts = encode({ ok: true, ...header }, arrays);
    } catch (error) {
        parts = encode(refusal(error), []);
    }
    await fetch("./answer", { method: "POST", body: new Blob(parts) });
};

globalThis.ready = loadLiteRt("./node_modules/@litertjs/core/wasm/").then(() => globalThis.crossOriginIsolated);
