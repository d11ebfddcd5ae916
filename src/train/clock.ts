// The time of a run: how much has passed, by a clock that may be set back or stand still.

/** Gives the seconds since it was made. They never get fewer: a clock that jumps back goes on from where it was. */
export function stopwatch(): () => number {
  let before = performance.now();
  let elapsed = 0;
  return () => {
    const now = performance.now();
    elapsed += Math.max(0, now - before) / 1000;
    before = now;
    return elapsed;
  };
}
