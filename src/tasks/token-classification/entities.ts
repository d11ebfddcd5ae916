// Entities in the tags of a text's words: where seqeval 1.2.2 finds them by default (sequence_labeling.py, after conlleval).

/** What words `from` to before `to` name together; `label` is the type, "_" where the tags have none. */
export interface Entity {
  label: string;
  from: number;
  to: number;
}

/** Whether tags name entities (B-PER, I-PER, O), and not what each word is by itself (NOUN, VERB). */
export const namesEntities = (labels: readonly string[]): boolean =>
  labels.some((label) => /^[BI]-/.test(label)) || labels.every((label) => /^[BIESO]$/.test(label));

/** B-PER → B and PER. */
const partsOf = (tag: string): [kind: string, type: string] => {
  const rest = tag.slice(1);
  return [tag[0] ?? "O", rest.slice(rest.indexOf("-") + 1) || "_"];
};

/**
 * The entities of a sequence of tags, in order. An entity ends where its type does, and begins without a B where no word of its type is
 * before it; E and S, where tags have them, end one.
 */
export function entitiesOf(tags: readonly string[]): Entity[] {
  const found: Entity[] = [];
  let [before, typeBefore, from] = ["O", "", 0];
  for (const [i, tag] of [...tags, "O"].entries()) {
    const [kind, type] = partsOf(tag);
    if (endsBetween(before, kind, typeBefore !== type)) found.push({ label: typeBefore, from, to: i });
    if (beginsAt(before, kind, typeBefore !== type)) from = i;
    [before, typeBefore] = [kind, type];
  }
  return found;
}

const isOutside = (kind: string): boolean => kind === "O" || kind === ".";

const endsBetween = (before: string, kind: string, isOther: boolean): boolean =>
  "ES".includes(before) || ("BI".includes(before) && "BSO".includes(kind)) || (!isOutside(before) && isOther);

const beginsAt = (before: string, kind: string, isOther: boolean): boolean =>
  "BS".includes(kind) || ("ESO".includes(before) && "EI".includes(kind)) || (!isOutside(kind) && isOther);
