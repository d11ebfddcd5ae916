// Garbage collection on request. V8 sees the size of its own objects, not that of the buffers they hold, and comes too late for those.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
/** Frees what nobody holds any more. Some milliseconds, more with a large heap. */
export const collect = runInNewContext("gc") as () => void;
setFlagsFromString("--no-expose-gc");
