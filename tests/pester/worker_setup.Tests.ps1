<#
Tests of scripts/worker_setup.ps1 for Pester 5 on Windows: Invoke-Pester tests/pester
Not run here: this project's own tests have no Windows. They only parse this file. Nothing on the machine is changed: every
cmdlet that would is a mock, and the file of old values is in TestDrive.
#>

BeforeAll {
    $script:Path = Join-Path -Path $PSScriptRoot -ChildPath '..\..\scripts\worker_setup.ps1'
    # The functions of the script without its last part, which needs an administrator.
    $tree = [System.Management.Automation.Language.Parser]::ParseFile($script:Path, [ref]$null, [ref]$null)
    $found = $tree.FindAll({ $args[0] -is [System.Management.Automation.Language.FunctionDefinitionAst] }, $false)
    foreach ($function in $found) {
        . ([ScriptBlock]::Create($function.Extent.Text))
    }
    $script:MasterIP = @('192.0.2.10', '192.0.2.11')
    $script:Group = 'loraloom cluster'
    $script:OpenRules = @('OpenSSH-Server-In-TCP', 'WINRM-HTTP-In-TCP', 'WINRM-HTTP-In-TCP-PUBLIC')
    $script:PolicyKey = 'HKLM:\SOFTWARE\loraloom-test'
}

Describe 'the parameters' {
    It 'has those that the guide names' {
        $names = (Get-Command -Name $script:Path).Parameters.Keys
        foreach ($name in @('MasterIP', 'Ssh', 'PublicKeyFile', 'PythonPath', 'Undo', 'WhatIf')) {
            $names | Should -Contain $name
        }
    }

    It 'takes no password' {
        (Get-Command -Name $script:Path).Parameters.Keys -match 'Password|Credential' | Should -BeNullOrEmpty
    }
}

Describe 'the firewall' {
    BeforeEach {
        Mock -CommandName Remove-NetFirewallRule
        Mock -CommandName New-NetFirewallRule
    }

    It 'lets in the addresses of the cluster only, and not on public networks' {
        Add-Rule -Name 'loraloom training' -Where @{ Program = 'C:\python.exe' }
        Should -Invoke -CommandName New-NetFirewallRule -Times 1 -Exactly -ParameterFilter {
            ($RemoteAddress -join ',') -eq '192.0.2.10,192.0.2.11' -and $Profile -notcontains 'Public'
        }
    }

    It 'replaces its own rule when it runs again' {
        Add-Rule -Name 'loraloom ssh' -Where @{ LocalPort = 22 }
        Add-Rule -Name 'loraloom ssh' -Where @{ LocalPort = 22 }
        Should -Invoke -CommandName Remove-NetFirewallRule -Times 2 -Exactly -ParameterFilter { $DisplayName -eq 'loraloom ssh' }
    }
}

Describe 'the old values' {
    BeforeEach {
        $script:StateFolder = Join-Path -Path $TestDrive -ChildPath 'state'
        $script:StateFile = Join-Path -Path $script:StateFolder -ChildPath 'before.json'
        $script:Minutes = 30
        Mock -CommandName Get-SleepMinutes -MockWith { return $script:Minutes }
        Mock -CommandName Get-EnabledRules -MockWith { return @('WINRM-HTTP-In-TCP') }
        Mock -CommandName Get-TokenPolicy -MockWith { return '' }
        Mock -CommandName Get-Service -MockWith {
            return [PSCustomObject]@{ StartType = 'Manual'; Status = 'Stopped' }
        }
    }

    AfterEach {
        if (Test-Path -Path $script:StateFile) {
            Remove-Item -Path $script:StateFile
        }
    }

    It 'are those of the first run, however often it runs' {
        Save-Before
        $script:Minutes = 0
        Save-Before
        (Read-Before).Standby | Should -Be 30
    }

    It 'are a file without a byte order mark' {
        Save-Before
        [System.IO.File]::ReadAllBytes($script:StateFile)[0] | Should -Be ([byte][char]'{')
    }

    It 'come back with -Undo, and a second -Undo does nothing' {
        $script:Calls = @()
        Mock -CommandName powercfg -MockWith { $script:Calls += ($args -join ' ') }
        Mock -CommandName Get-NetFirewallRule
        Mock -CommandName Remove-NetFirewallRule
        Mock -CommandName Enable-NetFirewallRule
        Mock -CommandName Stop-Service
        Mock -CommandName Set-Service
        Save-Before
        Restore-Before | Should -Match '^undone'
        $script:Calls | Should -Contain '/change standby-timeout-ac 30'
        $script:Calls | Should -Contain '/change hibernate-timeout-ac 30'
        Should -Invoke -CommandName Enable-NetFirewallRule -Times 1 -Exactly -ParameterFilter { $Name -eq 'WINRM-HTTP-In-TCP' }
        Should -Invoke -CommandName Stop-Service -Times 1 -Exactly -ParameterFilter { $Name -eq 'W32Time' }
        Test-Path -Path $script:StateFile | Should -BeFalse
        Restore-Before | Should -Be 'nothing to undo'
    }

    It 'leave a listener alone that has another certificate' {
        Mock -CommandName powercfg
        Mock -CommandName Get-NetFirewallRule
        Mock -CommandName Enable-NetFirewallRule
        Mock -CommandName Stop-Service
        Mock -CommandName Set-Service
        Mock -CommandName Remove-ItemProperty
        Mock -CommandName Get-ChildItem -MockWith { return [PSCustomObject]@{ Name = 'Listener_1' } }
        Mock -CommandName Get-Thumbprint -MockWith { return 'OTHER' }
        Mock -CommandName Remove-Item
        Save-Before
        Set-Before -Name 'Thumbprint' -Value 'OURS'
        Restore-Before | Out-Null
        Should -Not -Invoke -CommandName Remove-Item -ParameterFilter { $Recurse }
    }
}
