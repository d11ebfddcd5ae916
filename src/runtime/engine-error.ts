// What ONNX Runtime says when it fails, as an error that a person can act on.
import { LowrankError } from "../errors.ts";

/** Whether the engine or JavaScript says that memory is short. */
export const isOutOfMemory = (message: string): boolean =>
  /bad_alloc|Failed to allocate|allocation failed|out.of.(device.|host.)?memory/i.test(message);

export function engineError(message: string): LowrankError {
  const memory = isOutOfMemory(message);
  return new LowrankError("runtime/engine", memory ? "there is not enough memory" : "ONNX Runtime failed", {
    got: message,
    next: memory
      ? "Use fewer tokens a batch (--batch-size, --max-length), a base in fewer bits (--base-dtype int8), or train with --memory stream."
      : "Please report this with the command you ran.",
    exitCode: 1,
  });
}
