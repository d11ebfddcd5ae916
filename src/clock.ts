// Time that passes, by a clock that can jump (a machine slept, or its clock was set; performance.now() should not, and does), and what
// is reported meanwhile.

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

/** Gives true when more than `seconds` have passed since it last did, or since it was made; at its first call too if `atOnce`. */
export function pace(seconds: number, atOnce = false): () => boolean {
  const elapsed = stopwatch();
  let last = atOnce ? Number.NEGATIVE_INFINITY : 0;
  return () => {
    const now = elapsed();
    if (now - last <= seconds) return false;
    last = now;
    return true;
  };
}

/** What calls report, as events while something is awaited; of several between two events the last counts. */
export function reports<T>() {
  let waiting: T[] = [];
  let wake = (): void => undefined;
  return {
    add(report: T): void {
      waiting = [report];
      wake();
    },
    async *during<R>(work: Promise<R>): AsyncGenerator<T, R, void> {
      let isOver = false;
      const end = () => {
        isOver = true;
        wake();
      };
      work.then(end, end);
      while (!isOver) {
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (waiting.length > 0) resolve();
        });
        const next = waiting;
        waiting = [];
        yield* next;
      }
      return work;
    },
  };
}
