// A process of its own that trains two steps with a cache: streaming-child.ts BASE CACHE_FOLDER. Prints the losses.
import { partCache } from "../../src/platform/node/part-cache.ts";
import { twoSteps } from "./large-decoder.ts";

const [base, folder] = process.argv.slice(2) as [string, string];
const { losses } = await twoSteps(base, { baseDtype: "int8", memory: "stream", cache: partCache({ LOWRANK_CACHE: folder }) });
console.log(JSON.stringify(losses));
