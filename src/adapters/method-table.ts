// What the library asks of the table of adapter methods: its rows, the one that a configuration uses, and the fields they add.
import type { z } from "zod";
import { LowrankError } from "../errors.ts";
import type { Method, MethodField, MethodTensor, ModuleShape, TrainedTensor, UnbuiltMethod } from "./method.ts";
import * as table from "./methods/index.ts";

type Row = (typeof table)[keyof typeof table];
/** The schemas of all rows' fields, by their names in a LoraConfig. */
type FieldsOf<R> = R extends { fields: infer F extends Record<string, MethodField> } ? { [K in keyof F]: F[K]["schema"] } : never;
type Intersection<U> = (U extends unknown ? (value: U) => void : never) extends (value: infer I) => void ? I : never;
type MethodShape = Intersection<FieldsOf<Row>> & Record<never, z.ZodType>;

const rows: (Method | UnbuiltMethod)[] = Object.values(table);
const isBuilt = (row: Method | UnbuiltMethod): row is Method => "update" in row;

export const methods: readonly Method[] = rows.filter(isBuilt);
export const unbuiltMethods: readonly UnbuiltMethod[] = rows.filter((row) => !isBuilt(row)) as UnbuiltMethod[];

/** The one that a configuration uses where it asks for no other. */
export const plainMethod: Method = methods.find(({ isUsed }) => !isUsed)!;

/** Names of methods and the fields that turn each on: those that need no other value. */
export const methodSwitches: readonly { name: string; fields: Record<string, true>; method: Method }[] = Object.entries(
  table as Record<string, Method | UnbuiltMethod>,
).flatMap(([name, row]) => {
  if (!isBuilt(row) || !Object.values(row.fields).every(({ schema }) => schema.safeParse(true).success)) return [];
  return [{ name, fields: Object.fromEntries(Object.keys(row.fields).map((field) => [field, true as const])), method: row }];
});

const allFields: [string, MethodField][] = methods.flatMap(({ fields }) => Object.entries(fields));

/** The fields that methods add to a LoraConfig, and to the options of training. */
export const methodSchemas = Object.fromEntries(allFields.map(([name, { schema }]) => [name, schema])) as unknown as MethodShape;
/** Their names in adapter_config.json. */
export const methodPeftNames = Object.fromEntries(allFields.map(([name, { peftName }]) => [name, peftName])) as Record<
  keyof MethodShape,
  string
>;
/** What help says of them. */
export const methodHelp: readonly (Pick<MethodField, "help" | "value" | "commas"> & { name: string })[] = allFields.map(
  ([name, { peftName: _, schema: _schema, text: _text, ...info }]) => ({ name, ...info }),
);

/** The names of options that give a field's tokens as text. */
type TextOf<F> = { [K in keyof F]: F[K] extends { text: { name: infer N extends string } } ? N : never }[keyof F];
export type TextName = Row extends infer R ? (R extends { fields: infer F } ? TextOf<F> : never) : never;
/** Those options, with the fields that they are for. */
export const methodTexts: readonly { name: TextName; help: string; field: string }[] = allFields.flatMap(([field, { text }]) =>
  text ? [{ name: text.name as TextName, help: text.help, field }] : [],
);

/** The values of those fields among others. */
export const methodFieldsOf = <T extends object>(values: T): Pick<T, keyof MethodShape & keyof T> =>
  Object.fromEntries(Object.entries(values).filter(([name]) => Object.hasOwn(methodSchemas, name))) as never;

/** The method of a configuration. Throws `lora/unsupported` where it asks for several at once. */
export function methodOf(config: object): Method {
  const used = methods.filter(({ isUsed }) => isUsed?.(config as Record<string, unknown>));
  used[0]?.check?.(config as Record<string, unknown>);
  if (used.length < 2) return used[0] ?? plainMethod;
  const names = used.flatMap(({ fields }) => Object.keys(fields));
  throw new LowrankError("lora/unsupported", `${used.map(({ title }) => title).join(" and ")} can't be used together.`, {
    subject: names.join(", "),
    expected: "one of them",
    got: "several",
    next: "Turn all but one off.",
  });
}

/** The tensors that a method's `update` reads. */
export function readTensors(
  { tensors, derived }: Method,
  module: ModuleShape,
  rank: TrainedTensor["shape"][number],
): MethodTensor[] {
  const read = tensors(module, rank).filter(({ name }) => !derived?.replaces.includes(name));
  return [...read, ...(derived?.tensors(module) ?? [])];
}
