// RUN: kaoken-opt %s -p "quantize{dtype=bf16}" | filecheck %s
// RUN: kaoken-opt %s -p "quantize{dtype=bf16},quantize{dtype=bf16}" | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16},choose-schedule{target="x86-64-v4+bf16"},lower-to-loops' | filecheck %s --check-prefix=LOOPS

// Attention whose result bf16 layers alone read rounds it itself; where others read it, a cast does.
// CHECK:      %[[a:.*]] = kaoken.attention {{.*}} -> tensor<1x?x64xbf16>
// CHECK:      kaoken.linear %[[a]],
// CHECK:      %[[b:.*]] = kaoken.attention {{.*}} -> tensor<1x?x64xf32>
// CHECK:      %[[c:.*]] = kaoken.cast %[[b]] : tensor<1x?x64xf32> -> tensor<1x?x64xbf16>
// CHECK:      kaoken.linear %[[c]],
// LOOPS-LABEL: func.func private @attention_2x32
// LOOPS:         memref.store %{{.*}}, %y[%{{.*}}, %{{.*}}] : memref<?x64xbf16>
func.func @main(%x: tensor<1x?x64xf32> {kaoken.shape = #kaoken.shape<[1, tokens, 64]>}) -> (tensor<1x?x64xf32>, tensor<1x?x64xf32>, tensor<1x?x64xf32>) attributes {kaoken.max = {tokens = 100}} {
  %w = arith.constant dense<0.5> : tensor<64x64xf32>
  %a = kaoken.attention %x, %x, %x {num_heads = 2 : i64, scale = 1.0 : f64} : tensor<1x?x64xf32>, tensor<1x?x64xf32>, tensor<1x?x64xf32> -> tensor<1x?x64xf32>
  %y = kaoken.linear %a, %w : tensor<1x?x64xf32>, tensor<64x64xf32> -> tensor<1x?x64xf32>
  %b = kaoken.attention %x, %x, %x {num_heads = 2 : i64, scale = 2.0 : f64} : tensor<1x?x64xf32>, tensor<1x?x64xf32>, tensor<1x?x64xf32> -> tensor<1x?x64xf32>
  %z = kaoken.linear %b, %w : tensor<1x?x64xf32>, tensor<64x64xf32> -> tensor<1x?x64xf32>
  return %y, %b, %z : tensor<1x?x64xf32>, tensor<1x?x64xf32>, tensor<1x?x64xf32>
}
