// What sessions compute on: a line for each device.
import { LowrankError } from "../errors.ts";
import { nodesOf } from "../graph/graph.ts";
import type { Program } from "../graph/stages.ts";

export interface Device {
  /** Its kernels, in words. */
  what: string;
  /** Whether weights can be in other forms than float32. */
  forms: boolean;
  /**
   * Places of a batch, padding counted, that are computed at once. On a processor products of more rows are no faster, what they make
   * leaves its caches, and memory grows with them (docs/performance.md); a graphics card is full only with more.
   */
  passTokens: number;
}

export const devices = {
  cpu: { what: "the processor", forms: true, passTokens: 1024 },
  webgpu: { what: "the graphics card by Vulkan, Metal or Direct3D 12", forms: false, passTokens: Number.POSITIVE_INFINITY },
  cuda: { what: "an NVIDIA card by CUDA 12", forms: false, passTokens: Number.POSITIVE_INFINITY },
} satisfies Record<string, Device>;

export type DeviceName = keyof typeof devices;

export const deviceChoices = ["auto", ...(Object.keys(devices) as DeviceName[])] as const;
/** `auto` is the device that multiplies fastest. */
export type DeviceChoice = (typeof deviceChoices)[number];

/** Throws `runtime/base-dtype` if weights of the program are in forms that only Node's kernels on the processor compute with. */
export function checkForms({ stages }: Program, where: string, next: string): void {
  const isPart = stages.some(
    ({ graph, inputs }) =>
      inputs.some(({ source }) => source.kind === "weight" && source.part?.form) ||
      nodesOf(graph).some(({ op, attributes }) => op === "packedLinear" || (op === "weight" && attributes["form"] !== undefined)),
  );
  if (!isPart) return;
  throw new LowrankError("runtime/base-dtype", `${where} the base's weights can only be kept in float32`, {
    subject: "baseDtype",
    expected: "float32",
    next,
  });
}
