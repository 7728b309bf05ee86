// RUN: kaoken-opt %s -p "bake{target=x86-64-v3}" | filecheck %s
// RUN: kaoken-opt %s -p "bake{target=x86-64-v3},bake" | filecheck %s
// RUN: kaoken-opt %s -p "quantize{dtype=bf16}" | filecheck %s --check-prefix=BF16
// RUN: kaoken-opt %s -p "quantize{dtype=int8}" | filecheck %s --check-prefix=INT8
// RUN: kaoken-opt %s -p "quantize{dtype=int8 target=x86-64-v3}" | filecheck %s --check-prefix=SEVEN
// RUN: kaoken-opt %s -p "quantize{dtype=int8 target=x86-64-v3},bake" | filecheck %s --check-prefix=ONCE
// RUN: kaoken-opt %s -p "bake{target=x86-64-v3},lower-to-loops" | filecheck %s --check-prefix=LOOPS

// A table that the layer of logits multiplies as well is stored once, and read where it is packed.
func.func @main(%ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[s]>}) -> tensor<?x20xf32> attributes {kaoken.max = {s = 8}} {
  %w = arith.constant dense<1.5> : tensor<20x4xf32>
  %x = kaoken.embedding %w, %ids : tensor<20x4xf32>, tensor<?xi64> -> tensor<?x4xf32>
  %y = kaoken.linear %x, %w {schedule = #kaoken.schedule<panel(8)>} : tensor<?x4xf32>, tensor<20x4xf32> -> tensor<?x20xf32>
  return %y : tensor<?x20xf32>
}
// CHECK:      [[W:%.*]] = kaoken.weight "w.panels8" : tensor<3x4x8xf32>
// CHECK-NEXT: [[X:%.*]] = kaoken.embedding [[W]], %ids {rows = 20 : i64, columns = 4 : i64} : tensor<3x4x8xf32>, tensor<?xi64> -> tensor<?x4xf32>
// CHECK-NEXT: kaoken.linear [[X]], [[W]] {{.*}}out_features = 20

// BF16:      [[T:%.*]] = kaoken.cast %w : tensor<20x4xf32> -> tensor<20x4xbf16>
// BF16-NEXT: [[R:%.*]] = kaoken.embedding [[T]], %ids : tensor<20x4xbf16>, tensor<?xi64> -> tensor<?x4xbf16>
// BF16-NEXT: kaoken.cast [[R]] : tensor<?x4xbf16> -> tensor<?x4xf32>

// INT8:      [[S:%.*]] = kaoken.row_scale %w : tensor<20x4xf32> -> tensor<20xf32>
// INT8-NEXT: [[Q:%.*]] = kaoken.quantize %w scale [[S]] : tensor<20xf32> : tensor<20x4xf32> -> tensor<20x4xi8>
// INT8-NEXT: [[C:%.*]] = kaoken.reshape [[S]] to <[20, 1]> : tensor<20xf32> -> tensor<20x1xf32>
// INT8-NEXT: [[R:%.*]] = kaoken.embedding [[Q]], %ids : tensor<20x4xi8>, tensor<?xi64> -> tensor<?x4xi8>
// INT8-NEXT: [[F:%.*]] = kaoken.embedding [[C]], %ids : tensor<20x1xf32>, tensor<?xi64> -> tensor<?x1xf32>
// INT8-NEXT: [[N:%.*]] = kaoken.cast [[R]] : tensor<?x4xi8> -> tensor<?x4xf32>
// INT8-NEXT: kaoken.elementwise mul [[N]], [[F]]

// The look-up reads the codes that the layer multiplies, of seven bits as well.
// SEVEN:      [[S:%.*]] = kaoken.row_scale %w {bits = 7 : i64}
// SEVEN-NEXT: [[Q:%.*]] = kaoken.quantize %w scale [[S]] : tensor<20xf32> {bits = 7 : i64}
// SEVEN:      kaoken.embedding [[Q]]
// SEVEN:      kaoken.row_scale %w {bits = 7 : i64}
// SEVEN:      kaoken.linear {{.*}}weight_bits = 7

// ONCE:       [[T:%.*]] = kaoken.weight {{.*}} : tensor<3x2x8x4xi8>
// ONCE-NOT:   i8>
// ONCE:       kaoken.embedding [[T]]
// ONCE:       kaoken.linear %{{.*}}, [[T]]

// LOOPS-LABEL: func.func private @embedding_20x4(%table: memref<3x4x8xf32>, %ids: memref<?xi64>
// LOOPS:       [[ROW:%.*]] = arith.select
// LOOPS:       [[P:%.*]] = arith.floordivsi [[ROW]]
// LOOPS:       [[L:%.*]] = arith.remsi [[ROW]]
// LOOPS:       affine.for %h = 0 to 4
// LOOPS-NEXT:    memref.load %table[[[P]], %h, [[L]]]
