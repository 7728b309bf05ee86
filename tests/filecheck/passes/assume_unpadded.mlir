// RUN: kaoken-opt %s -p 'assume-unpadded{padding=1}' | filecheck %s
// RUN: kaoken-opt %s -p 'assume-unpadded{padding=1},assume-unpadded{padding=1}' | filecheck %s

// Comparisons of a function's tokens with padding; those with another token, or of anything else, stay.

// CHECK-LABEL: func.func @main
// CHECK:         %[[P:.*]] = kaoken.full 1 : i64 to <[]>
// CHECK-NEXT:    %[[Q:.*]] = kaoken.full 2 : i64 to <[]>
// CHECK-NEXT:    %[[A:.*]] = kaoken.full true to <[1, tokens]> : tensor<1x?xi1>
// CHECK-NEXT:    %[[B:.*]] = kaoken.full false to <[1, tokens]> : tensor<1x?xi1>
// CHECK-NEXT:    %[[C:.*]] = kaoken.cast
// CHECK-NEXT:    %[[D:.*]] = kaoken.elementwise ne %[[C]], %[[P]]
// CHECK-NEXT:    %[[E:.*]] = kaoken.elementwise ne %ids, %[[Q]]
// CHECK-NEXT:    func.return %[[A]], %[[B]], %[[D]], %[[E]]
func.func @main(%ids: tensor<1x?xi64> {kaoken.shape = #kaoken.shape<[1, tokens]>}, %x: tensor<1x?xf32> {kaoken.shape = #kaoken.shape<[1, tokens]>}) -> (tensor<1x?xi1>, tensor<1x?xi1>, tensor<1x?xi1>, tensor<1x?xi1>) attributes {kaoken.max = {tokens = 12 : i64}} {
  %p = kaoken.full 1 to <[]> : tensor<i64>
  %q = kaoken.full 2 to <[]> : tensor<i64>
  %a = kaoken.elementwise ne %ids, %p : tensor<1x?xi64>, tensor<i64> -> tensor<1x?xi1>
  %b = kaoken.elementwise eq %p, %ids : tensor<i64>, tensor<1x?xi64> -> tensor<1x?xi1>
  %c = kaoken.cast %x : tensor<1x?xf32> -> tensor<1x?xi64>
  %d = kaoken.elementwise ne %c, %p : tensor<1x?xi64>, tensor<i64> -> tensor<1x?xi1>
  %e = kaoken.elementwise ne %ids, %q : tensor<1x?xi64>, tensor<i64> -> tensor<1x?xi1>
  func.return %a, %b, %d, %e : tensor<1x?xi1>, tensor<1x?xi1>, tensor<1x?xi1>, tensor<1x?xi1>
}
