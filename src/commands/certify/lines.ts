// What is printed of a certificate.
import type { Certificate } from "./certify.ts";
import { shownNumber } from "./page.ts";

/** A line for each bound, and what rounding cost. */
export function certificateLines({ passed, bounds, weights, outputs }: Certificate): string[] {
  const { merged, compared, problems } = weights;
  const least = merged.reduce((min, one) => Math.min(min, one.arrived), 1);
  const mean = merged.reduce((sum, one) => sum + one.arrived, 0) / Math.max(1, merged.length);
  const share = (value: number) => `${(100 * value).toFixed(1)}%`;
  const dtypes = [...new Set(merged.map(({ dtype }) => dtype))].join(", ");
  const [logits] = outputs?.merged ?? [];
  const [effect] = outputs?.base ?? [];
  const beside = effect?.divergence ? ` (the adapter itself: ${shownNumber(effect.divergence.mean)})` : "";
  return [
    `${compared} weights compared, ${merged.length} changed by the adapter`,
    ...(merged.length > 0 ? [`in ${dtypes}, ${share(mean)} of the update is there, of the least weight ${share(least)}`] : []),
    ...(logits
      ? [
          `outputs on ${outputs!.source}: largest difference ${shownNumber(logits.largest)}, mean ${shownNumber(logits.mean)}`,
          ...(logits.divergence
            ? [
                `divergence ${shownNumber(logits.divergence.mean)} nats${beside}, the most probable token is the same ${share(logits.agreement ?? 0)} of the time`,
              ]
            : []),
        ]
      : ["outputs were not compared: give records with --data"]),
    ...problems.slice(0, 5).map((problem) => `problem: ${problem}`),
    ...bounds
      .filter(({ holds }) => !holds)
      .map(({ what, found, limit }) => `broken: ${what}: ${shownNumber(found)}, limit ${shownNumber(limit)}`),
    passed ? "passed" : "failed",
  ];
}
