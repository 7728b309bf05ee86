// RUN: not kaoken-opt %s -t 'c{lower=false}' 2>&1 | filecheck %s

func.func @f(%x: tensor<4xf32>) {
  %y = kaoken.relu %x : tensor<4xf32> -> tensor<4xf32>
  func.return
}

// CHECK: the C printer has no type for tensor<4xf32>
