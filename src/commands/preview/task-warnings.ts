// What a person should look at before training another task than language modelling.
import { grouped } from "../../units.ts";
import type { TaskPreview } from "./preview-task.ts";
import type { TaskDatasetPreview } from "./task-stats.ts";

/** Of a class with fewer training records little can be learnt. */
const FEW_RECORDS = 5;
/** With one class this frequent, a model that always says it looks good. */
const MOST_OF_ONE_CLASS = 0.9;
/** Classes that a warning names. */
const NAMED = 5;

export function taskWarnings({ maxLength, train, evaluation, duplicates }: Omit<TaskPreview, "warnings">): string[] {
  const files = evaluation === null ? [train] : [train, evaluation];
  const warnings = files.flatMap((file) => fileWarnings(file, maxLength));
  if (train.records > 0 && train.classes) warnings.push(...classWarnings(train, evaluation));
  const { contradicting, shared } = duplicates;
  if (contradicting > 0) {
    warnings.push(`${train.source}: ${records(contradicting)} there before with another class; one of both is wrong`);
  }
  if (shared > 0) {
    warnings.push(
      `${grouped(shared)} of ${grouped(evaluation!.records)} evaluation records are training records, so the evaluation looks better than it is`,
    );
  }
  return warnings;
}

function fileWarnings({ source, records, truncated }: TaskDatasetPreview, maxLength: number | null): string[] {
  if (records === 0) return [`${source}: there are no records, and a run would refuse the file`];
  if (truncated <= records / 10) return [];
  return [
    `${source}: ${grouped(truncated)} of ${grouped(records)} texts are cut at ${maxLength} tokens, and their end is not read`,
  ];
}

function classWarnings({ source, records, classes }: TaskDatasetPreview, evaluation: TaskDatasetPreview | null): string[] {
  const all = classes!;
  const few = all.filter(({ count }) => count > 0 && count < FEW_RECORDS);
  const none = all.filter(({ count }) => count === 0);
  const most = all.find(({ count }) => count > MOST_OF_ONE_CLASS * records);
  const missed = (evaluation?.classes ?? []).filter(({ label, count }) => count > 0 && none.some((one) => one.label === label));
  const warnings: string[] = [];
  if (few.length > 0) {
    warnings.push(
      `${source}: fewer than ${FEW_RECORDS} records of ${listed(few.map(({ label, count }) => `${label} (${count})`))}`,
    );
  }
  if (none.length > 0)
    warnings.push(`${source}: no record of ${listed(none.map(({ label }) => label))}, which training then never sees`);
  if (most) {
    const share = ((100 * most.count) / records).toFixed(1);
    warnings.push(`${source}: ${share} % of the records are of ${most.label}; look at macro F1 and not at accuracy`);
  }
  if (missed.length > 0) {
    warnings.push(`the evaluation has classes without a training record: ${listed(missed.map(({ label }) => label))}`);
  }
  return warnings;
}

const records = (count: number): string => (count === 1 ? "1 record was" : `${grouped(count)} records were`);
const listed = (names: readonly string[]): string =>
  `${names.slice(0, NAMED).join(", ")}${names.length > NAMED ? `, and ${names.length - NAMED} more` : ""}`;
