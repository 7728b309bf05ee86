// RUN: kaoken-opt %s -p 'quantize{dtype=mixed},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=mixed},quantize{dtype=mixed},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=mixed budget="1.8"},dce' | filecheck %s
// RUN: not kaoken-opt %s -p 'quantize{dtype=mixed budget="1"},dce' 2>&1 | filecheck %s --check-prefix=LITTLE
// RUN: not kaoken-opt %s -p 'quantize{dtype=mixed budget="1 byte"},dce' 2>&1 | filecheck %s --check-prefix=NONE

// A weight whose numbers all have one size is exact in one bit, and takes no more of any budget. The
// module keeps what was chosen.
// CHECK: module attributes {kaoken.policy = ["u int1", "d int1"], kaoken.notes = ["weights by width: 2 int1"]
// CHECK: kaoken.linear {{.*}} {format = #kaoken.format<1 bits, group 32, offset 1, step 2>} : tensor<?x2x10xi32>, tensor<72x64xui8> -> tensor<?x72xf32>
// CHECK: kaoken.linear {{.*}} {format = #kaoken.format<1 bits, group 32, offset 1, step 2>} : tensor<?x3x10xi32>, tensor<64x72xui8> -> tensor<?x64xf32>
// LITTLE: the budget leaves 0.00115 MB for weights of layers and tables, which take 0.00202 MB with the fewest bits: give more
// NONE: the budget is '1 byte': give bits a weight such as 4.5
func.func @main(%x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[rows, 64]>}) -> tensor<?x64xf32> attributes {kaoken.max = {rows = 64}} {
  %u = arith.constant dense<0.5> : tensor<72x64xf32>
  %d = arith.constant dense<-0.25> : tensor<64x72xf32>
  %1 = kaoken.linear %x, %u : tensor<?x64xf32>, tensor<72x64xf32> -> tensor<?x72xf32>
  %2 = kaoken.linear %1, %d : tensor<?x72xf32>, tensor<64x72xf32> -> tensor<?x64xf32>
  return %2 : tensor<?x64xf32>
}
