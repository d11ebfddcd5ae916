// The web worker of the test: trains and generates on the engine that the page names, and decodes images.
import { createLowrank, webFiles, webPlatform } from "../../../src/web.ts";
import { type Answer, type Decoded, failureText, type Result, type Task, trainAndGenerate } from "../run.ts";

addEventListener("message", async ({ data: task }: MessageEvent<Task>) => {
  post(await answer(task).catch((error) => ({ failure: failureText(error) })));
});

const post = (answer: Answer): void => postMessage(answer);

async function answer({ engine, files, prompts, images }: Task): Promise<Result> {
  const mounted = Object.fromEntries([...files, ...images].map((path) => [path, new URL(`/${path}`, location.href)]));
  const models = { embedded: "models/embedded" };
  const lowrank = createLowrank(webPlatform({ engine, wasmPaths: "/ort/", files: webFiles(mounted), models }));
  const places = { base: "embedded", data: "models/demo/train.jsonl", output: "run" };
  const outcome = await trainAndGenerate(lowrank, places, prompts, (step, loss) => post({ progress: `step ${step}: ${loss}` }));
  const decoded: Record<string, Decoded> = {};
  for (const path of images) {
    const { width, height, channels, data } = await lowrank.readImage(path);
    decoded[path] = { width, height, channels, data: [...data] };
  }
  return { outcome, images: decoded };
}
