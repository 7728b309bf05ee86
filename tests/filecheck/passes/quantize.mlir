// RUN: kaoken-opt %s -p 'quantize{dtype=int8}' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=int8},quantize{dtype=int8}' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16}' | filecheck %s --check-prefix=BF16
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16 target="x86-64-v4+bf16"}' | filecheck %s --check-prefix=BF16
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16 target=x86-64-v3}' | filecheck %s --check-prefix=WEIGHTS
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target=x86-64-v3}' | filecheck %s --check-prefix=SLOW
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target=x86-64-v3},quantize{dtype=int8 target=x86-64-v3}' | filecheck %s --check-prefix=SEVEN
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target=x86-64-v4},canonicalize,fuse' | filecheck %s --check-prefix=SEVEN
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target="x86-64-v3+avxvnni"}' | filecheck %s --check-prefix=EIGHT
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target="x86-64-v4+vnni"}' | filecheck %s --check-prefix=EIGHT
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target="x86-64-v4+amx"}' | filecheck %s --check-prefix=EIGHT
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target=generic}' | filecheck %s --check-prefix=EIGHT
// RUN: kaoken-opt %s -p 'quantize{dtype=f32}' | filecheck %s --check-prefix=F32
// RUN: not kaoken-opt %s -p 'quantize{dtype=int7}' 2>&1 | filecheck %s --check-prefix=BAD

// F32-NOT: kaoken.quantize
// BAD: quantize has no dtype 'int7': choose one of auto, f32, bf16, int8,

// Two layers read %x, which is quantised once. The third one's three inputs fill no 32-bit word:
// it stays as it is.
// CHECK-LABEL: func.func @main
// CHECK:      %[[xs:.*]] = kaoken.row_scale %x : tensor<?x8xf32> -> tensor<?xf32>
// CHECK-NEXT: %[[xq:.*]] = kaoken.quantize %x scale %[[xs]] : tensor<?xf32> {zero_point = 128 : i64} : tensor<?x8xf32> -> tensor<?x8xui8>
// CHECK-NEXT: %[[ws:.*]] = kaoken.row_scale %w : tensor<16x8xf32> -> tensor<16xf32>
// CHECK-NEXT: %[[wq:.*]] = kaoken.quantize %w scale %[[ws]] : tensor<16xf32> : tensor<16x8xf32> -> tensor<16x8xi8>
// CHECK-NEXT: kaoken.linear %[[xq]], %[[wq]] bias %b : tensor<16xf32> input_scale %[[xs]] : tensor<?xf32> weight_scale %[[ws]] : tensor<16xf32> {activation = #kaoken<activation relu>} : tensor<?x8xui8>, tensor<16x8xi8> -> tensor<?x16xf32>
// CHECK-NEXT: %[[vs:.*]] = kaoken.row_scale %v
// CHECK-NEXT: %[[vq:.*]] = kaoken.quantize %v scale %[[vs]]
// CHECK-NEXT: kaoken.linear %[[xq]], %[[vq]] input_scale
// CHECK:      kaoken.linear %{{.*}}, %u : tensor<?x3xf32>, tensor<8x3xf32> -> tensor<?x8xf32>
// Without an instruction for products of ui8 and i8 weights have seven bits; inputs keep theirs.
// SEVEN-LABEL: func.func @main
// SEVEN:      %[[xs:.*]] = kaoken.row_scale %x : tensor<?x8xf32> -> tensor<?xf32>
// SEVEN-NEXT: %[[xq:.*]] = kaoken.quantize %x scale %[[xs]] : tensor<?xf32> {zero_point = 128 : i64} : tensor<?x8xf32> -> tensor<?x8xui8>
// SEVEN-NEXT: %[[ws:.*]] = kaoken.row_scale %w {bits = 7 : i64} : tensor<16x8xf32> -> tensor<16xf32>
// SEVEN-NEXT: %[[wq:.*]] = kaoken.quantize %w scale %[[ws]] : tensor<16xf32> {bits = 7 : i64} : tensor<16x8xf32> -> tensor<16x8xi8>
// SEVEN-NEXT: kaoken.linear %[[xq]], %[[wq]] bias %b : tensor<16xf32> input_scale %[[xs]] : tensor<?xf32> weight_scale %[[ws]] : tensor<16xf32> {activation = #kaoken<activation relu>, weight_bits = 7 : i64} :
// EIGHT-NOT: bits
// EIGHT:     kaoken.linear %{{.*}} : tensor<?x8xui8>, tensor<16x8xi8>
// EIGHT-NOT: bits = 7
// BF16:      %[[xb:.*]] = kaoken.cast %x : tensor<?x8xf32> -> tensor<?x8xbf16>
// BF16-NEXT: %[[wb:.*]] = kaoken.cast %w : tensor<16x8xf32> -> tensor<16x8xbf16>
// BF16-NEXT: kaoken.linear %[[xb]], %[[wb]] bias %b
// Without quick products of bf16 only weights are narrow.
// WEIGHTS-LABEL: func.func @main
// WEIGHTS:      %[[wb:.*]] = kaoken.cast %w : tensor<16x8xf32> -> tensor<16x8xbf16>
// WEIGHTS-NEXT: kaoken.linear %x, %[[wb]] bias %b {{.*}} : tensor<?x8xf32>, tensor<16x8xbf16> -> tensor<?x16xf32>
func.func @main(%x: tensor<?x8xf32> {kaoken.shape = #kaoken.shape<[rows, 8]>}, %z: tensor<?x3xf32> {kaoken.shape = #kaoken.shape<[rows, 3]>}) -> (tensor<?x16xf32>, tensor<?x16xf32>, tensor<?x8xf32>) attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "w" : tensor<16x8xf32>
  %v = kaoken.weight "v" : tensor<16x8xf32>
  %u = kaoken.weight "u" : tensor<8x3xf32>
  %b = kaoken.weight "b" : tensor<16xf32>
  %0 = kaoken.linear %x, %w bias %b : tensor<16xf32> {activation = #kaoken<activation relu>} : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %1 = kaoken.linear %x, %v : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %2 = kaoken.linear %z, %u : tensor<?x3xf32>, tensor<8x3xf32> -> tensor<?x8xf32>
  return %0, %1, %2 : tensor<?x16xf32>, tensor<?x16xf32>, tensor<?x8xf32>
}

// What bf16 layers alone read is rounded where it is computed; a second reader wants it as it is.
// BF16-LABEL: func.func @rounded
// BF16:       %[[y:.*]] = kaoken.linear %{{.*}} {activation = #kaoken<activation relu>} : tensor<?x8xbf16>, tensor<16x8xbf16> -> tensor<?x16xbf16>
// BF16-NOT:   kaoken.cast %[[y]]
// BF16:       %[[z:.*]] = kaoken.linear %[[y]], %{{.*}} : tensor<?x16xbf16>, tensor<8x16xbf16> -> tensor<?x8xf32>
// BF16:       %[[c:.*]] = kaoken.cast %[[z]]
// BF16:       kaoken.linear %[[c]]
func.func @rounded(%x: tensor<?x8xf32> {kaoken.shape = #kaoken.shape<[rows, 8]>}) -> (tensor<?x8xf32>, tensor<?x16xf32>) attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "w" : tensor<16x8xf32>
  %u = kaoken.weight "u" : tensor<8x16xf32>
  %0 = kaoken.linear %x, %w {activation = #kaoken<activation relu>} : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  %1 = kaoken.linear %0, %u : tensor<?x16xf32>, tensor<8x16xf32> -> tensor<?x8xf32>
  %2 = kaoken.linear %1, %w : tensor<?x8xf32>, tensor<16x8xf32> -> tensor<?x16xf32>
  return %1, %2 : tensor<?x8xf32>, tensor<?x16xf32>
}

// Queries, keys and values that only products of bf16 read are rounded where they are made. With f32
// nothing changes.
// CHECK-LABEL: func.func @factors
// CHECK:      %[[y:.*]] = kaoken.linear %{{.*}} -> tensor<1x?x24xbf16>
// CHECK-NEXT: %[[q:.*]] = kaoken.slice %[[y]] <[0, 8]> {dim = 2 : i64} : tensor<1x?x24xbf16> -> tensor<1x?x8xbf16>
// CHECK:      kaoken.attention %[[q]], {{.*}}bf16_products{{.*}} : tensor<1x?x8xbf16>, tensor<1x?x8xbf16>, tensor<1x?x8xbf16> -> tensor<1x?x8xf32>
// BF16-LABEL: func.func @factors
// BF16:      kaoken.linear %{{.*}} -> tensor<1x?x24xbf16>
// WEIGHTS-LABEL: func.func @factors
// WEIGHTS:   kaoken.linear %{{.*}} -> tensor<1x?x24xf32>
// WEIGHTS-NOT: bf16_products
// SLOW-LABEL: func.func @factors
// SLOW:      kaoken.linear %{{.*}} -> tensor<1x?x24xf32>
// SLOW-NOT:  bf16_products
// F32-LABEL: func.func @factors
// F32:       kaoken.linear %{{.*}} -> tensor<1x?x24xf32>
func.func @factors(%x: tensor<1x?x8xf32> {kaoken.shape = #kaoken.shape<[1, rows, 8]>}) -> tensor<1x?x8xf32> attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "qkv" : tensor<24x8xf32>
  %y = kaoken.linear %x, %w : tensor<1x?x8xf32>, tensor<24x8xf32> -> tensor<1x?x24xf32>
  %q = kaoken.slice %y <[0, 8]> {dim = 2} : tensor<1x?x24xf32> -> tensor<1x?x8xf32>
  %k = kaoken.slice %y <[8, 16]> {dim = 2} : tensor<1x?x24xf32> -> tensor<1x?x8xf32>
  %v = kaoken.slice %y <[16, 24]> {dim = 2} : tensor<1x?x24xf32> -> tensor<1x?x8xf32>
  %z = kaoken.attention %q, %k, %v {num_heads = 2, scale = 1.0 : f64} : tensor<1x?x8xf32>, tensor<1x?x8xf32>, tensor<1x?x8xf32> -> tensor<1x?x8xf32>
  return %z : tensor<1x?x8xf32>
}
