// A platform on the device that is asked for.
import { LowrankError } from "../errors.ts";
import { type DeviceChoice, type DeviceName, devices } from "../runtime/devices.ts";
import type { OpenSession } from "../runtime/session.ts";
import { measureFlops } from "../runtime/speed.ts";
import type { Platform } from "./platform.ts";

/** What of a platform depends on the device. */
export type OnDevice = Pick<Platform, "device" | "devices" | "openSession">;

/** A step is more than products: a device that multiplies less than so many times as fast is not taken by `auto`. */
const WORTHWHILE = 2;

/**
 * The platform on a device: its own if absent, for `auto` the one that multiplies fastest of those that are there. Rejects with
 * `runtime/device` where the device does not start, or the platform has another one.
 */
export async function onDevice<P extends OnDevice>(platform: P, choice: DeviceChoice | undefined): Promise<P> {
  const own = platform.device ?? "cpu";
  if (choice === undefined || choice === own) return platform;
  if (choice === "auto") return fastest(platform);
  if (!platform.devices) {
    throw new LowrankError("runtime/device", `this engine computes on ${devices[own].what}`, {
      subject: "device",
      expected: own,
      got: choice,
      next: "Leave out device: in a browser webPlatform({ engine }) says what computes.",
    });
  }
  return { ...platform, device: choice, openSession: await platform.devices.open(choice) };
}

async function fastest<P extends OnDevice>(platform: P): Promise<P> {
  const found = platform.devices?.found() ?? [];
  if (found.length === 0) return platform;
  let best = { platform, flops: WORTHWHILE * (await measureFlops(platform.openSession)) };
  for (const device of found) {
    const flops = await flopsOf(platform, device);
    if (flops > best.flops) best = { platform: await onDevice(platform, device), flops };
  }
  return best.platform;
}

/** 0 where the device does not start. */
async function flopsOf(platform: OnDevice, device: DeviceName): Promise<number> {
  try {
    const openSession: OpenSession = await platform.devices!.open(device);
    return await measureFlops(openSession);
  } catch (error) {
    if (error instanceof LowrankError) return 0;
    throw error;
  }
}
