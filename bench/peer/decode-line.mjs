// What the programs that decode share: the prompt, and the line that they end with.

/**
 * The same ids for every program: ordinary tokens of any vocabulary of some thousand.
 * @param {number} length
 * @returns {number[]}
 */
export const promptIds = (length) => Array.from({ length }, (_, i) => 300 + ((i * 37) % 1500));

/**
 * @param {string} tool
 * @param {number} promptTokens
 * @param {readonly number[]} ids generated
 * @param {readonly number[]} times in ms: the start, then each token
 * @param {number} openSeconds
 * @param {NodeJS.CpuUsage} used since the first token
 * @returns {string}
 */
export function decodeLine(tool, promptTokens, ids, times, openSeconds, used) {
  const round = (/** @type {number} */ value) => Number(value.toFixed(4));
  const [start = 0, first = 0] = times;
  const perToken = ((times.at(-1) ?? 0) - first) / 1000 / (times.length - 2);
  return JSON.stringify({
    tool,
    prompt_tokens: promptTokens,
    new_tokens: ids.length,
    seconds: round(perToken),
    cpu_seconds: round((used.user + used.system) / 1e6 / (times.length - 2)),
    tokens_per_second: round(1 / perToken),
    prompt_seconds: round((first - start) / 1000),
    open_seconds: round(openSeconds),
    ids,
  });
}
