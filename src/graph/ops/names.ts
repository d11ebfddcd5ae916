// The names of all ops, grouped by file. The table must have a row for each: a missing one does not compile.
type Leaf = "input" | "weight" | "constant" | "iota";
type Arithmetic = "add" | "sub" | "mul" | "div" | "neg" | "exp" | "log" | "sqrt" | "sin" | "cos";
type Activation = "tanh" | "erf" | "gelu" | "sigmoid" | "silu";
type Choice = "less" | "equal" | "and" | "where" | "cast" | "detach";
type Reduction = "reduceSum" | "reduceMax" | "softmax";
type Movement = "reshape" | "transpose" | "concat" | "slice" | "split" | "window" | "broadcastTo";
type Indexing = "embedding" | "gatherRows" | "scatterAddRows" | "keepTop" | "rowsWhere" | "lastOf";
type Linear = "linear" | "gemm" | "matmul";
type Normalization = "rmsNorm" | "layerNorm";
type Attention = "attention" | "attentionGradient" | "rotary";
type Stored = "store" | "widen" | "packedLinear";
type Rotated = "rotate" | "quantiseRows" | "standingOut" | "withoutColumns" | "columnsAt" | "integerProduct";
type Loss = "crossEntropy" | "crossEntropyGradient";
type OutputLayer = "linearCrossEntropy" | "outputChunk" | "outputLoss";

type Elementwise = Arithmetic | Activation | Choice;
export type OpName =
  | Leaf
  | Elementwise
  | Reduction
  | Movement
  | Indexing
  | Linear
  | Normalization
  | Attention
  | Stored
  | Rotated
  | Loss
  | OutputLayer;
