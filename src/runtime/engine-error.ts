// What ONNX Runtime says when it fails, as an error that a person can act on.
import { LowrankError } from "../errors.ts";

export function engineError(message: string): LowrankError {
  const memory = /bad_alloc|Failed to allocate|out.of.(device.|host.)?memory/i.test(message);
  return new LowrankError("runtime/engine", memory ? "ONNX Runtime ran out of memory" : "ONNX Runtime failed", {
    got: message,
    next: memory
      ? "Use fewer tokens a batch (--batch, --max-length), or a smaller model."
      : "Please report this with the command you ran.",
    exitCode: 1,
  });
}
