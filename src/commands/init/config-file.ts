// The config file that lowrank init writes: YAML with a comment on every option.
import { stringify } from "yaml";
import { type DescribedOption, describeOptions, helpOf, type Options, sections } from "../../options.ts";

/** A config file: the options given are set, the others are comments with their default. */
export function writeConfig(options: Options, values: Record<string, unknown>, introduction: readonly string[]): string {
  const described = describeOptions(options);
  const lines = introduction.map((line) => `# ${line}`.trimEnd());
  for (const [id, title] of Object.entries(sections)) {
    lines.push("", `# --- ${title} ---`);
    for (const option of described.filter(({ section = "more" }) => section === id)) {
      lines.push("", ...commentOf(option), lineOf(option, values[option.name]));
    }
  }
  return `${lines.join("\n")}\n`;
}

function commentOf(option: DescribedOption): string[] {
  const text = helpOf(option);
  const wrapped = text.match(/\S.{0,94}(?=\s|$)|\S+/g) ?? [text];
  return wrapped.map((line) => `# ${line}`);
}

function lineOf({ name, usual, isSwitch }: DescribedOption, value: unknown): string {
  if (value !== undefined) return `${name}: ${inline(value)}`;
  return `#${name}: ${usual ?? (isSwitch ? "false" : "")}`.trimEnd();
}

/** A value on one line. */
function inline(value: unknown): string {
  const text = stringify(value, { collectionStyle: "flow", lineWidth: 0 }).trim();
  return text.includes("\n") ? JSON.stringify(value) : text;
}
