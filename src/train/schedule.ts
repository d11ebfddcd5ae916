// Learning-rate schedules: get_{constant,linear,cosine}_schedule_with_warmup of transformers/optimization.py.

/** The factor on the learning rate at `step` (from 0) of a run of `steps`. */
export type Schedule = (step: number, warmup: number, steps: number) => number;

const warmedUp =
  (rest: Schedule): Schedule =>
  (step, warmup, steps) =>
    step < warmup ? step / Math.max(1, warmup) : rest(step, warmup, steps);

/** Each rises from 0 to 1 in `warmup` steps; the first step of a warm-up therefore has learning rate 0, as in Transformers. */
export const schedules = {
  constant: warmedUp(() => 1),
  linear: warmedUp((step, warmup, steps) => Math.max(0, (steps - step) / Math.max(1, steps - warmup))),
  cosine: warmedUp((step, warmup, steps) => {
    const progress = (step - warmup) / Math.max(1, steps - warmup);
    return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
  }),
} satisfies Record<string, Schedule>;

export type ScheduleName = keyof typeof schedules;
