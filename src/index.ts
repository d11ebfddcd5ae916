// The public API, and nothing else.
import { type Pushed, type PushFolderOptions, pushFolder } from "./commands/push/push.ts";
import { lowrank, nodePlatform } from "./node.ts";

export type { LoraConfig } from "./adapters/config.ts";
export type { ModuleDescription } from "./adapters/describe.ts";
export type { AdapterModule } from "./adapters/match.ts";
export type { Adapter } from "./adapters/peft-files.ts";
export type { ResizedModule } from "./adapters/resize.ts";
export type { Certificate, CertifyOptions } from "./commands/certify/certify.ts";
export type { CombineAdaptersOptions } from "./commands/combine/combine.ts";
export type { Converted, ConvertOptions } from "./commands/convert/convert.ts";
export type { AnswerEvent, AnswerOptions } from "./commands/eval/answers.ts";
export type { EvaluatedTask, EvaluateOptions, Evaluation, EvaluationOf } from "./commands/eval/evaluate.ts";
export type { ExtractAdapterOptions } from "./commands/extract/extract.ts";
export type { AdapterInspection, BaseInspection } from "./commands/inspect/inspect.ts";
export type { MergeAdapterOptions } from "./commands/merge/merge.ts";
export type { Plan, PlanOptions } from "./commands/plan/plan.ts";
export type { Preview, PreviewOptions } from "./commands/preview/preview.ts";
export type { Pushed, PushFolderOptions } from "./commands/push/push.ts";
export type { ResizeAdapterOptions, ResizedAdapter } from "./commands/resize/resize.ts";
export type { SweepEvent } from "./commands/sweep/sweep.ts";
export type { FinetuneEvent } from "./commands/train/finetune.ts";
export type { UnmergeAdapterOptions } from "./commands/unmerge/unmerge.ts";
export type { FileState, VerifyEvent } from "./commands/verify/verify.ts";
export { createLowrank } from "./core.ts";
export type { ExampleReport } from "./data/dataset.ts";
export { LowrankError } from "./errors.ts";
export { type Generator, generateText } from "./generate/generator.ts";
export type { ImagePrompt, Prompt } from "./generate/prompts.ts";
export type { EndReason, GenerateEvent, GenerateOptions } from "./generate/types.ts";
export type { RgbImage } from "./images/image.ts";
export type { ImageBatch, ImageProcessor, ProcessedImage } from "./images/processor.ts";
export type { Base } from "./models/base.ts";
export type { DecoderConfig } from "./models/config/config.ts";
export type { ModuleInfo } from "./models/module.ts";
export type { ModelConfig } from "./models/registry.ts";
export type { HubEvent, HubOptions, Platform } from "./platform/platform.ts";
export type {
  Classification,
  Classifier,
  ClassifierInput,
  ClassifyOptions,
  Embedder,
  ImageInput,
  LabelledSpan,
  LabelScore,
  TextInput,
} from "./predict/types.ts";
export type { ReportOptions } from "./report/report.ts";
export type { SweepGiven } from "./sweep/options.ts";
export type { ClassifierScore } from "./tasks/common/classification.ts";
export type { DatasetStats, ShownExample } from "./tasks/common/preview.ts";
export type { ScoreOf, TaskName } from "./tasks/index.ts";
export type { Score } from "./tasks/task.ts";
export type { ContentPart, ImagePart } from "./text/parts.ts";
export type { ChatMessage } from "./text/template.ts";
export type { Tokenizer } from "./text/tokenizer.ts";
export type { FinetuneOptions } from "./train/options.ts";
export { nodePlatform };

export const {
  answers,
  certify,
  combineAdapters,
  convert,
  downloadModel,
  evaluate,
  extractAdapter,
  finetune,
  imageProcessor,
  initModel,
  inspectAdapter,
  inspectBase,
  loadAdapter,
  loadBase,
  mergeAdapter,
  openClassifier,
  openEmbedder,
  openGenerator,
  plan,
  preview,
  readImage,
  reportRuns,
  resizeAdapter,
  saveAdapter,
  sweep,
  unmergeAdapter,
  verify,
} = lowrank;

/**
 * Puts an adapter or a merged model on the hub, in one commit with a model card; with `dryRun` shows what would be pushed. The token is that
 * of the environment (HF_TOKEN). Throws `push/*` and `hub/*`.
 */
export const push = (options: PushFolderOptions): Promise<Pushed> => pushFolder(options, nodePlatform);
