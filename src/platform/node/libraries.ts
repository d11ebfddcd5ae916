// C libraries, loaded by koffi. Its settings are the process's, and have to be made before the first library.
import koffi, { type LibraryHandle } from "koffi";

/**
 * Stack of the threads that calls are made from. ONNX Runtime looks through the process's command line by a recursive expression, and
 * MPICH puts more on it than the 128 KiB that koffi gives.
 */
const STACK_BYTES = 16 * 2 ** 20;

let isConfigured = false;
/** Kept, since a library is unloaded when its handle is collected. */
const loaded = new Map<string, LibraryHandle>();

/** The library at a path, or of a name that the system's loader finds; throws what the loader says where there is none. */
export function loadLibrary(path: string): LibraryHandle {
  const known = loaded.get(path);
  if (known) return known;
  if (!isConfigured) koffi.config({ async_stack_size: STACK_BYTES, sync_stack_size: STACK_BYTES });
  isConfigured = true;
  const handle = koffi.load(path);
  loaded.set(path, handle);
  return handle;
}

const RTLD_NOW = 2;

/**
 * The same for a library whose threads' data have to be freed as they end: koffi unloads libraries before the last threads have ended,
 * and this one stays.
 */
export function loadForever(path: string): LibraryHandle {
  const handle = loadLibrary(path);
  if (process.platform !== "win32") koffi.load(null).func("dlopen", "void *", ["str", "int"])(path, RTLD_NOW);
  return handle;
}
