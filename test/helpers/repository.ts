// Paths in the repository, for tests: their compiled code is in another folder.
import { repository } from "../../scripts/compile.mjs";

export { compiled, repository } from "../../scripts/compile.mjs";

export const fixtures = `${repository}test/fixtures`;
