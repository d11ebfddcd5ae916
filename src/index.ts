// The public API, and nothing else.
export type { ExampleReport } from "./data/dataset.ts";
export { LowrankError } from "./errors.ts";
export type { Generator } from "./generate/generator.ts";
export type { ImagePrompt, Prompt } from "./generate/prompts.ts";
export type { EndReason, GenerateEvent, GenerateOptions } from "./generate/types.ts";
export type { HubEvent, HubOptions } from "./hub/hub.ts";
export type { RgbImage } from "./images/image.ts";
export type { ImageBatch, ImageProcessor, ProcessedImage } from "./images/processor.ts";
export type { AnswerEvent, AnswerOptions } from "./jobs/answers.ts";
export type { EvaluatedTask, EvaluateOptions, Evaluation, EvaluationOf } from "./jobs/evaluate.ts";
export type { ClassifierScore, ContrastiveScore, Score } from "./jobs/evaluate-measures.ts";
export { generateText } from "./jobs/generate-text.ts";
export type { AdapterInspection, BaseInspection } from "./jobs/inspect.ts";
export type { MergeAdapterOptions } from "./jobs/merge.ts";
export type { Plan, PlanOptions } from "./jobs/plan.ts";
export type { Preview, PreviewedTask, PreviewOf, PreviewOptions, ShownExample } from "./jobs/preview.ts";
export type { DatasetPreview } from "./jobs/preview-account.ts";
export type { ShownRecord, TaskPreview } from "./jobs/preview-task.ts";
export type { TaskDatasetPreview } from "./jobs/preview-task-account.ts";
export type { Adapter } from "./lora/adapter.ts";
export type { LoraConfig } from "./lora/config.ts";
export type { ModuleDescription } from "./lora/describe.ts";
export type { AdapterModule, ModuleInfo } from "./lora/match.ts";
export type { Base } from "./models/base.ts";
export type { DecoderConfig } from "./models/config.ts";
export type { ModelConfig } from "./models/registry.ts";
export type { Task, TaskConfig } from "./models/task.ts";
export {
  answers,
  downloadModel,
  evaluate,
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
  saveAdapter,
} from "./node.ts";
export type {
  Classification,
  Classifier,
  ClassifierInput,
  ClassifyOptions,
  Embedder,
  ImageInput,
  LabelScore,
  TextInput,
} from "./predict/types.ts";
export type { ReportOptions } from "./report/report.ts";
export type { ContentPart, ImagePart } from "./text/parts.ts";
export type { ChatMessage } from "./text/template.ts";
export type { Tokenizer } from "./text/tokenizer.ts";
export type { FinetuneEvent } from "./train/finetune.ts";
export type { FinetuneOptions } from "./train/options.ts";
